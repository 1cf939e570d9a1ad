// SPDX-License-Identifier: Apache-2.0
// A loaded model with an adapter as a computation in double, composed of the oracle's ops: the loss of a batch and its
// gradient by the adapter's values, for every family. Weights are what the device gives back. One thread.
#ifndef CHECK_TRAIN_MODEL_H
#define CHECK_TRAIN_MODEL_H
#include "engine/learn/graph.h"

struct train_model;
struct train_model *train_model_make(const struct ht_model *model, const struct hearth_adapter *adapter,
                                     const struct ht_batch *batch);
void train_model_free(struct train_model *m);
// Draws as the graph's; rates 0 at first.
void train_model_draws(struct train_model *m, float dropout, float neftune, uint64_t seed, uint64_t step);
double *train_model_values(struct train_model *m);          // the adapter's, its layout; to be changed by the caller
const double *train_model_gradient(const struct train_model *m); // of the last train_model_back, same layout
double train_model_loss(void *m);                           // Σ weight * loss; a train_objective
double train_model_row_loss(const struct train_model *m, uint32_t row); // of the last train_model_loss
void train_model_back(struct train_model *m);               // after train_model_loss

#endif
