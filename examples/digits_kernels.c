/*
 * The chip kernels of the digits example: one hidden layer, forward and backward, and the weight update.
 *
 * Matrices are row-major float32. Sums are taken in double and rounded once, so that the result does not hang on the
 * order in which they are taken, and NumPy gets the same weights. A kernel returns 0, or the number of the rule that
 * its arguments break: BAD_ARGUMENTS or BAD_SHAPES.
 */
#include "simpler_kernel.h"

#include <math.h>
#include <string.h>

enum { BAD_ARGUMENTS = 1, BAD_SHAPES = 2 };

static uint32_t rows(const slr_tensor *tensor) {
    return (uint32_t)tensor->shape[0];
}
static uint32_t columns(const slr_tensor *tensor) {
    return (uint32_t)tensor->shape[1];
}
static int same_shape(const slr_tensor *a, const slr_tensor *b) {
    return a->ndim == 2 && b->ndim == 2 && rows(a) == rows(b) && columns(a) == columns(b);
}

/* out[n, o] = in[n, i] x weight[i, o] + bias[o], and nothing below `least`. */
static int dense_layer(const slr_tensor *t, uint32_t n_tensors, double least) {
    if (n_tensors != 4)
        return BAD_ARGUMENTS;
    if (columns(&t[0]) != rows(&t[1]) || columns(&t[1]) != columns(&t[3]) || rows(&t[0]) != rows(&t[3]))
        return BAD_SHAPES;
    const float *in = t[0].data, *weight = t[1].data, *bias = t[2].data;
    float *out = t[3].data;
    const uint32_t inputs = columns(&t[0]), outputs = columns(&t[1]);
    for (uint32_t row = 0; row < rows(&t[0]); row++) {
        for (uint32_t o = 0; o < outputs; o++) {
            double sum = bias[o];
            for (uint32_t i = 0; i < inputs; i++)
                sum += (double)in[row * inputs + i] * weight[i * outputs + o];
            out[row * outputs + o] = (float)fmax(sum, least);
        }
    }
    return 0;
}

/* The hidden layer: images, weight, bias -> activation. */
int dense_relu(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)scalars, (void)n_scalars;
    return dense_layer(tensors, n_tensors, 0.0);
}

/* The output layer: activation, weight, bias -> logits. */
int dense(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)scalars, (void)n_scalars;
    return dense_layer(tensors, n_tensors, -INFINITY);
}

/* logits[n, c], labels[n] -> loss[n] of each image, and the gradient of the batch's mean loss by the logits. */
int softmax_cross_entropy(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)scalars, (void)n_scalars;
    if (n_tensors != 4)
        return BAD_ARGUMENTS;
    if (!same_shape(&tensors[0], &tensors[3]))
        return BAD_SHAPES;
    const float *logits = tensors[0].data;
    const int32_t *labels = tensors[1].data;
    float *loss = tensors[2].data, *gradient = tensors[3].data;
    const uint32_t batch = rows(&tensors[0]), classes = columns(&tensors[0]);
    for (uint32_t row = 0; row < batch; row++, logits += classes, gradient += classes) {
        if (labels[row] < 0 || (uint32_t)labels[row] >= classes)
            return BAD_ARGUMENTS;
        double largest = logits[0], total = 0.0;
        for (uint32_t c = 1; c < classes; c++)
            largest = fmax(largest, logits[c]);
        for (uint32_t c = 0; c < classes; c++)
            total += exp(logits[c] - largest);
        loss[row] = (float)(log(total) - (logits[labels[row]] - largest));
        for (uint32_t c = 0; c < classes; c++) {
            double wanted = (uint32_t)labels[row] == c;
            gradient[c] = (float)((exp(logits[c] - largest) / total - wanted) / batch);
        }
    }
    return 0;
}

/* in[n, i], gradient[n, o] of a layer's output -> gradients of its weight[i, o] and bias[o]. */
int dense_gradient(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)scalars, (void)n_scalars;
    if (n_tensors != 4)
        return BAD_ARGUMENTS;
    const slr_tensor *in = &tensors[0], *out = &tensors[1], *weight = &tensors[2];
    if (rows(in) != rows(out) || columns(in) != rows(weight) || columns(out) != columns(weight))
        return BAD_SHAPES;
    const float *inputs = in->data, *outputs = out->data;
    float *by_weight = weight->data, *by_bias = tensors[3].data;
    for (uint32_t o = 0; o < columns(out); o++) {
        for (uint32_t i = 0; i < columns(in); i++) {
            double sum = 0.0;
            for (uint32_t row = 0; row < rows(in); row++)
                sum += (double)inputs[row * columns(in) + i] * outputs[row * columns(out) + o];
            by_weight[i * columns(out) + o] = (float)sum;
        }
        double sum = 0.0;
        for (uint32_t row = 0; row < rows(in); row++)
            sum += outputs[row * columns(out) + o];
        by_bias[o] = (float)sum;
    }
    return 0;
}

/* gradient[n, o] of the logits, weight[i, o], activation[n, i] -> gradient[n, i] of the hidden layer before its relu.
 */
int relu_gradient(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    (void)scalars, (void)n_scalars;
    if (n_tensors != 4)
        return BAD_ARGUMENTS;
    const slr_tensor *by_logits = &tensors[0], *weight = &tensors[1], *activation = &tensors[2];
    if (!same_shape(activation, &tensors[3]) || columns(by_logits) != columns(weight))
        return BAD_SHAPES;
    const float *outer = by_logits->data, *weights = weight->data, *active = activation->data;
    float *inner = tensors[3].data;
    const uint32_t hidden = columns(activation), classes = columns(weight);
    for (uint32_t row = 0; row < rows(activation); row++) {
        for (uint32_t i = 0; i < hidden; i++) {
            double sum = 0.0;
            for (uint32_t c = 0; c < classes; c++)
                sum += (double)outer[row * classes + c] * weights[i * classes + c];
            inner[row * hidden + i] = active[row * hidden + i] > 0.0F ? (float)sum : 0.0F;
        }
    }
    return 0;
}

/* One step of gradient descent along the mean of two gradients: weights -= rate x mean. */
int descend(const slr_tensor *tensors, uint32_t n_tensors, const uint64_t *scalars, uint32_t n_scalars) {
    if (n_tensors != 3 || n_scalars != 1)
        return BAD_ARGUMENTS;
    if (tensors[0].bytes != tensors[1].bytes || tensors[0].bytes != tensors[2].bytes)
        return BAD_SHAPES;
    float *weights = tensors[0].data;
    const float *one = tensors[1].data, *other = tensors[2].data;
    double rate;
    memcpy(&rate, &scalars[0], sizeof rate);
    for (uint64_t i = 0; i < tensors[0].bytes / sizeof(float); i++) {
        float mean = (float)(((double)one[i] + other[i]) / 2);
        weights[i] = (float)(weights[i] - rate * mean);
    }
    return 0;
}
