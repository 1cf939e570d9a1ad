// SPDX-License-Identifier: Apache-2.0
// Until the engine has a trainer: what the daemon calls says so. Any thread.
#include "engine/learn.h"
#include "firmware/util.h"

#define NOT_YET __attribute__((weak))

NOT_YET enum hearth_status hearth_trainer_open(struct hearth_trainer **trainer, struct hearth_engine *engine,
                                               const struct hearth_train_params *params, struct hearth_error *err)
{
    (void)engine, (void)params;
    *trainer = NULL;
    return hd_fail(err, HEARTH_UNSUPPORTED, "this engine does not train");
}

NOT_YET enum hearth_status hearth_trainer_run(struct hearth_trainer *trainer, double budget_ms,
                                              struct hearth_error *err)
{
    (void)trainer, (void)budget_ms;
    return hd_fail(err, HEARTH_UNSUPPORTED, "this engine does not train");
}

NOT_YET void hearth_trainer_get_info(const struct hearth_trainer *trainer, struct hearth_train_info *info)
{
    (void)trainer;
    *info = (struct hearth_train_info){0};
}

NOT_YET void hearth_trainer_checkpoint(struct hearth_trainer *trainer)
{
    (void)trainer;
}

NOT_YET void hearth_trainer_close(struct hearth_trainer **trainer)
{
    *trainer = NULL;
}

NOT_YET void hearth_train_default(struct hearth_train_params *params)
{
    (void)params;
}

NOT_YET enum hearth_status hearth_trainer_adapter(struct hearth_trainer *trainer, struct hearth_adapter **adapter,
                                                  struct hearth_error *err)
{
    (void)trainer;
    *adapter = NULL;
    return hd_fail(err, HEARTH_UNSUPPORTED, "this engine does not train");
}
