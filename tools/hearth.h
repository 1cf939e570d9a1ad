// SPDX-License-Identifier: Apache-2.0
// The commands of `hearth`, one function each, in tools/cmd_*.c. argv[0] is the command's name; the result
// is the exit code. Main thread.
#ifndef HEARTH_TOOLS_HEARTH_H
#define HEARTH_TOOLS_HEARTH_H

int cmd_adapter(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_conversations(int argc, char **argv);
int cmd_data(int argc, char **argv);
int cmd_devices(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_pair(int argc, char **argv);
int cmd_people(int argc, char **argv);
int cmd_pull(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_token(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_train(int argc, char **argv);

#endif
