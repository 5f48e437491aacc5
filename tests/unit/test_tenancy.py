"""Who still has a region for a worker is told by a lock that lasts as long as the mapping."""

from __future__ import annotations

import mmap
import os

from simpler.tenancy import as_tenant, has_tenants


def test_a_tenant_is_there_until_its_last_mapping_goes() -> None:  # W4
    fd = os.memfd_create("region", os.MFD_CLOEXEC)
    os.ftruncate(fd, mmap.PAGESIZE)
    own = as_tenant(fd, 3)
    mapping = mmap.mmap(own, mmap.PAGESIZE)
    os.close(own)
    assert [has_tenants(fd, worker) for worker in (2, 3, 4)] == [False, True, False]
    mapping.close()
    assert not has_tenants(fd, 3)
    os.close(fd)


def test_workers_are_told_apart() -> None:
    fd = os.memfd_create("region", os.MFD_CLOEXEC)
    owns = [as_tenant(fd, worker) for worker in (0, 1)]
    os.close(owns[0])
    assert [has_tenants(fd, worker) for worker in (0, 1)] == [False, True]
    os.close(owns[1])
    os.close(fd)
