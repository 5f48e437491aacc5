"""Every limit and default of the library and the daemon, with its unit and the reason for the number."""

from __future__ import annotations

# ---- task graph: how much may be live at once. Virtual memory until touched.
TASKS = 1 << 16
EDGES = 1 << 18
RUNS = 1 << 10
CALLABLES = 1 << 10
CALLABLE_BYTES = 60 << 20
"""Payload of a callable. It is sent in one frame, so this stays below FRAME_DATA_BYTES."""
COMPILE_TIMEOUT_S = 120.0
DEVICE_CACHE_BYTES = 256 << 20
"""Device memory that a chip worker keeps for the next task instead of freeing it."""
DEVICE_FREES_PENDING = 64
"""How many device buffers of one chip may wait to be freed behind the tasks that use them."""
TRACE_EVENTS = 1 << 16
HEAP_BYTES = 1 << 30
SMALLEST_HEAP_BYTES = 1 << 16
MAX_WORKERS = 1 << 10
IMPORTS_MAPPED = 64
"""Imports of a session that one worker keeps mapped; a task that names another maps it in their place."""
HIGHEST_LEVEL_WITH_LOCAL = 14
"""The processes below a Worker of this host get a descriptor for each Worker above: MAX_FDS of spawn_protocol.py."""

# ---- calls of executors: where their arguments and results lie
INLINE_CALL_BYTES = 64 << 10
"""Larger ones have a heap block of their own, over which their arrays lie without a copy."""
SPARE_FOR_SMALL = 1 / 4
"""The share of the heap that large results leave free: what is small always finds room."""
SPARE_FOR_RESULTS = 1 / 2
"""The share that large arguments leave free."""
RESULT_ROOM_S = 30.0
"""How long a result that fits into the heap alone, and may not go to a file, waits until others were taken away."""
RESULT_LOOK_S = 0.01
"""How often it is looked for that room: far below what it takes to copy so much to another host."""
LARGEST_IN_HEAP = 1 / 4
"""The share that one call or result may take. More would mostly be memory that was never touched before, which takes
longer than writing a file."""
SPILL_MAPPED_BYTES = 1 << 20
"""Smaller files are read, not mapped: a process has some 65,000 mappings (vm.max_map_count)."""

# ---- worker life
STARTUP_TIMEOUT_S = 60.0
LONGEST_TASK_TIMEOUT_S = 1e9
"""Thirty years: what a deadline adds up to still is a number of nanoseconds in 64 bits."""
SPIN_US = 50
"""How long an idle worker watches for work before it sleeps: about the cost of one futex wake."""
START_MARGIN_S = 1.0
"""How much earlier than its parent a child has to be READY, at most: what is late is named by what is nearest to it."""
CLOSE_TIMEOUT_S = 10.0
"""How long ``close`` waits for live runs, and then for processes, before it escalates."""
INTERRUPTED_GRACE_S = 1.0
"""The same for a program that leaves its ``with`` block by Ctrl-C or sys.exit: nobody waits for its runs any more."""
SUPERVISION_INTERVAL_S = 0.2
"""How often a waiting parent looks whether its spawner is still there."""
SIGNAL_INTERVAL_S = 1.0
"""How often an idle DIST worker sees to its signals: one that comes just before it goes to sleep does not wake it."""
TENANTS_S = 2.0
"""How long what is below a dead DIST worker may take to end, before the worker is replaced all the same."""
TENANTS_INTERVAL_S = 0.001
"""How often it is looked whether that has ended, which nothing tells."""
STDERR_LINES = 50
STDERR_LINE_BYTES = 4096
MAX_RESTARTS = 5
"""Deaths of one worker in a row, without a task completed in between, after which it is given up."""
TENSOR_RUNS = 1024
"""Strided views are ordered by their exact contiguous runs up to this many, else by their bounding range."""
TOMBSTONE_GRACE_S = 0.5
"""How long ``register`` and ``unregister`` wait for an earlier ``unregister`` of the same callable to be confirmed. Who
is idle confirms at once; who is not may be busy for long."""

# ---- pushes of one run, which go from orchestration functions to the program's listeners
PUSHES_WAITING = 1 << 10
PUSH_BYTES_WAITING = 16 << 20
"""What listeners have yet to be told; whoever pushes more waits."""
PUSHES_KEPT = 256
"""Of what nobody listens to, for who does so later."""
PUSH_TOPIC_BYTES = 256
PUSH_BYTES = 8 << 20
"""Of one value; it is sent in one frame, so this stays below FRAME_PAYLOAD_BYTES."""
PUSHES_SENT_AHEAD = 64
"""Of one Worker below on this host, to the process above it; each takes a place in the graph there."""
PUSH_TIMEOUT_S = 30.0
"""How long to push may wait for room: the listeners are called one after the other, and one may be slow."""

# ---- map of an executor
CHUNK_S = 0.02
"""How long a worker is to be busy with one chunk of inputs: what it costs to send one is about 1/200 of that."""
SMALLEST_CHUNK_S = 0.001
"""No chunk is made smaller for a fair share: nobody notices a worker that idles for that long at the end."""
CHUNK_GROWTH = 8
"""How much larger than one that is over a chunk may be."""
CHUNK_SHARES = 2
"""Into how many chunks per worker the inputs that are left are split at least."""
CHUNKS_PER_WORKER = 3
"""Sent and not over: one that runs, one that lies ready for the worker, and one while it is heard that one is over."""
PROGRESS_REFRESH_S = 0.1
PROGRESS_LINE_S = 10.0
"""How often progress is shown: on a terminal, and where each line stays."""

# ---- frames between hosts
FRAME_PAYLOAD_BYTES = 16 << 20
FRAME_DATA_BYTES = 64 << 20
CHUNK_BYTES = 4 << 20
"""Copies are cut into data frames of this size, so that one copy never holds a lane for long."""
CHUNKS_IN_FLIGHT = 4
INLINE_BYTES = 1 << 20
"""Largest ``host_inline`` tensor, or local array sent along with a task."""
INLINE_RESULT_BYTES = 1 << 20
"""Largest result of a SUB_CALL that travels in its reply; a larger one is copied as buffers are."""
MESSAGE_ITEMS = 1 << 17
"""In all arrays and maps of one payload together: enough for MESSAGE_ARRAY_ITEMS tensors of any shape."""
MESSAGE_ARRAY_ITEMS = 1 << 12
"""In one array or map; a parser makes room for what the head announces, before anything of it has come."""
MESSAGE_TEXT_BYTES = 1 << 20
REQUESTS_IN_FLIGHT = 1 << 12
REQUEST_BYTES_HELD = 3 * (FRAME_PAYLOAD_BYTES + FRAME_DATA_BYTES)
"""Requests of one connection that wait to be answered, all together; more than a program of ours ever sends ahead. With
the frame that is being received, a connection takes no more than four of the largest frames."""
REQUESTS_AWAITED = REQUESTS_IN_FLIGHT // 2
"""Those that somebody waits for; who has more waits to send them. The rest is for what nobody waits for: the tasks of a
session, up to QUICK_TASKS_AHEAD, and FIRST_AHEAD to free buffers, which find room however many others wait."""
SERVING_DEPTH = 32
CONTROL_TIMEOUT_S = 30.0
"""How long a request that does not run user code may take."""
SEND_TIMEOUT_S = 30.0
"""How long a peer may read nothing of what it is sent before its connection is given up."""
FAULT_TIMEOUT_S = 1.0
"""How long a connection that is given up may take to take the reason."""
CONNECT_TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 20.0
"""How long nothing may be heard of a host before what it has is given up; and how long a runner may be stopped."""
TASKS_AHEAD = 16
"""Tasks that one session is given ahead: enough to keep it busy, few enough that the rest can still be cancelled."""
TASK_BYTES_AHEAD = 64 << 20
"""Arguments of tasks sent ahead, together; with CALLABLES_SENT_AHEAD well below REQUEST_BYTES_HELD."""
QUICK_TASKS_AHEAD = 1 << 10
"""The same for tasks that are over so quickly that the session has them all done within AHEAD_S."""
AHEAD_S = 0.02
"""How much longer a cancelled run may go on for what its session was given ahead; more than most networks take to and
from, which is how much must be ahead to keep a session busy."""
QUICK_TASK_BYTES_AHEAD = 4 << 20
"""Arguments of tasks beyond TASKS_AHEAD, together: a session holds them in memory until their turn comes."""
FIRST_AHEAD = 1 << 9
"""Requests to free buffers that one session is sent ahead. With REQUESTS_AWAITED and QUICK_TASKS_AHEAD they leave room
below REQUESTS_IN_FLIGHT for those that drop outputs, thousands at a time."""
LANE_SPIN_S = 150e-6
"""How long a session watches its command lane before it sleeps: what a client on the same network takes from an answer
to its next task. Waking a core that has gone to sleep costs a fifth of a small task."""
READ_AHEAD_S = 1.0
"""After how long in one request a session begins to read what its client sends ahead: well below TCP_SILENCE_S."""
CALLABLES_SENT_AHEAD = 2
"""Callables that a session which opens is sent before it has confirmed the first of them."""
OPENING_GRACE_S = 2.0
"""How long sessions that are opening may still take once another could not be opened."""
ENDED_GRACE_S = 2.0
"""How long a daemon may take to say why a session has ended, after the session's lanes were lost."""
RECONNECT_S = 0.05
"""Before the second attempt at a connection that was lost; then twice as long each time, up to RECONNECT_MOST_S."""
RECONNECT_MOST_S = 0.5
"""A daemon that is there again closes after LOST_CLIENT_GRACE_S what nobody has asked for: time for some attempts."""
DAEMON_AWAY_S = 5.0
"""How long a program that closes a session, or has lost one, waits for a daemon that is not there: it may be restarted,
and then knows. More than a restart takes."""
ERROR_PICKLE_BYTES = 8 << 20
"""A pickled exception larger than this stays behind; its text always travels."""

# ---- daemon
FIRST_FRAME_TIMEOUT_S = 10.0
"""How long a fresh connection may take to say what it is."""
FRAME_TIMEOUT_S = 10.0
"""From the first byte of a later frame to simplerd, or of a line to its admin socket, to the last: both are small."""
FIRST_FRAME_PAYLOAD_BYTES = 16 << 10
"""Of HELLO and ATTACH, which have some hundred: SILENT_CONNECTIONS take little memory, whatever they send."""
CONTROL_PAYLOAD_BYTES = 1 << 20
"""Of what a client sends simplerd afterwards."""
PEER_TIMEOUT_S = 10.0
"""How long one session's runner waits for another's to hand over memory."""
HANG_UP_TIMEOUT_S = 1.0
"""How long a runner that gives memory back waits until its owner, which may be busy, has noticed."""
GRANTS_WAITING = 1 << 10
"""Of one session, that nobody has used yet."""
MAX_SESSIONS = 256
SESSIONS_PER_CLIENT = 128
MAX_CONNECTIONS = 1024
CONNECTIONS_PER_CLIENT = 256
"""No client alone takes all sessions or connections of a daemon."""
SILENT_CONNECTIONS = 128
"""Connections that have not yet said what they are: more than ever do so at the same time, and few enough that seeing
all of them off at once is no pause for anybody else."""
REFUSALS_LOGGED = 20
REFUSALS_WINDOW_S = 10.0
REFUSED_IDENTITIES = 1024
"""A client that is refused again and again gets this many lines in the log in this time; of the others their number."""
ENDED_SESSIONS_KEPT = 100
ENDED_SESSIONS_BYTES = 8 << 20
"""Of what is kept of all of them, in memory and in the state folder: a hundred, or dozens that printed much."""
ENDED_CAUSE_CHARACTERS = 64 << 10
"""Of why one has ended: the traceback of what kept it from starting, with its causes."""
LOG_KEPT_BYTES = 64 << 10
"""Of what one session printed, for operators."""
LOG_WAIT_S = 60.0
"""How long session.logs may be asked to wait for the next line."""
CAUSE_CHARACTERS = 4 << 10
"""What is kept of why a session has ended, there and in EVENTS_KEPT; its client has the whole text."""
SESSION_TOKEN_BYTES = 32
OPEN_KEY_BYTES = 32
LANE_CERTIFICATE_BYTES = 4096
"""Of the certificate that each end of a session's lanes shows; ours have some 300 bytes."""
LOST_CLIENT_GRACE_S = 5.0
"""How long a client whose control connection was lost may take to come back, before its sessions are closed."""
ADOPTION_TIMEOUT_S = 300.0
"""How long a session goes on without a daemon: an upgrade takes seconds, a repair by hand minutes; its devices are
nobody's meanwhile."""
SUB_WORKERS_PER_SESSION = 64
MANIFEST_BYTES = 256 << 10
"""A runner is told its manifest in one packet, which holds less than a frame."""
IMPORT_PATHS_BYTES = 64 << 10
"""All together: they are told twice, in the manifest and with the daemon's own."""
SESSION_HEAP_BYTES = 64 << 30

ANSWER_TIMEOUT_S = 5.0
"""How long a runner may take to say what the daemon asks about its session: its loop has the interpreter seldom."""
ANSWER_BYTES = 4 << 20
"""Of one answer, which the daemon decodes in one go: tens of milliseconds."""
ANSWERS_BYTES = 16 << 20
"""Of the answers of all sessions to one question together, each of which has an equal share of it."""
ANSWER_NAME_CHARACTERS = 1 << 10
ANSWER_WORD_CHARACTERS = 64
"""Of a state, a kind, or the name of a worker; there may be MAX_WORKERS of each in the answers of all sessions."""
HASHID_CHARACTERS = 71
"""Of "sha256:" and 64 digits."""
TASKS_TOLD = MAX_WORKERS + 256
"""Those that run, and as many of those that wait as anybody reads."""
TRACE_PAGE_EVENTS = 1 << 10
BUFFERS_TOLD = 1 << 10

# ---- admin interface
ADMIN_LINE_BYTES = 1 << 20
ADMIN_BATCH_ITEMS = 100
ADMIN_NESTING = 32
ADMIN_VALUES = 10_000
"""Values in one line, nested ones included."""
ADMIN_CONNECTIONS = 64
ADMIN_SUBSCRIPTIONS = 16
"""Per connection."""
EVENTS_KEPT = 1024
EVENT_TEXT_CHARACTERS = 4 << 10
"""Of one field of an event, such as the last lines of stderr; the session itself keeps all of them."""
EVENT_FILE_BYTES = 2 << 20
"""Of each of the two files that keep the events for the next daemon, which reads them as it starts: some 10,000."""

# ---- metrics
LOOK_INTERVAL_S = 0.5
"""How often runners are asked what they do, at most, however many metrics and live views want to know."""
LOOK_TIMEOUT_S = 1.0
"""How long a look waits for all of them: a live view is to move, and a scraper to be answered."""
METRIC_LABELS = 128
"""Different labels of one count, some of which come from outside; there are some sixty error codes."""
LAST_LOOK_TIMEOUT_S = 0.25
"""How long the close of a session waits to hear what it has done."""
HTTP_CONNECTIONS = 16
HTTP_HEAD_BYTES = 8 << 10
HTTP_TIMEOUT_S = 5.0
"""Of a request for metrics and its answer together; both stay on this host."""

# ---- what a session's processes print
OUTPUT_RATE_BYTES = 1 << 20
OUTPUT_BURST_BYTES = 1 << 20
"""What one session may have its client told in a second, and at once; more than anybody reads."""
OUTPUT_KEPT_BYTES = 256 << 10
"""Of one session, for a client that is slow."""
OUTPUT_MESSAGE_LINES = 1000
OUTPUT_MESSAGE_BYTES = 64 << 10

DEVICE_HISTORY_KEPT = 32
"""Notes on what happened to one device: who looks into a failure wants the last few."""
DEVICE_PROBE_INTERVAL_S = 10.0
"""A device that was only reset is back by then."""
DEVICE_PROBE_INTERVAL_MAX_S = 600.0
"""Each try is twice as late as the one before, up to this."""
DEVICE_PROBE_TIMEOUT_S = 30.0
"""A device that takes longer to be opened would let no session become ready in time either."""
DEVICE_PROBES = 12
"""Of a device that goes on failing, about an hour and a half; then an operator has to say so."""

CALLS_AHEAD = 2
"""Calls of an executor that each of its workers has or is about to get; all others can still be cancelled."""
QUICK_CALLS_AHEAD = 64
"""The same for calls that are over so quickly that the workers have them all done within CALLS_AHEAD_S."""
CALLS_AHEAD_S = 0.004
"""How long what the workers of an executor have keeps them busy: as long as a program's threads may take to send more,
which get the interpreter every 5 ms (sys.getswitchinterval) when another computes."""
SUBMITS_PER_LOOK = 32
"""How many calls a thread submits that the workers have no room for, before it looks for results: workers must not
have been idle for long by then, and a look that finds nothing costs as much as submitting a call."""
COLLECTOR_INTERVAL_S = 0.005
"""How often an executor's own thread looks for results while the program's threads take them themselves."""
