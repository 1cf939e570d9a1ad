// SPDX-License-Identifier: Apache-2.0
// The `hearth` command: finds the command's function by name. Main thread.
#include "tools/hearth.h"

#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "tools/cli.h"
#include "tools/json_line.h"

struct command {
    const char *name;
    const char *help;
    int (*run)(int argc, char **argv); // NULL = comes with a later version
};

static const struct command commands[] = {
    {"run", "chat with a model in this terminal, without a server", cmd_run},
    {"chat", "chat through a running hearthd, like a phone", cmd_chat},
    {"pull", "fetch a model", cmd_pull},
    {"models", "list, choose and remove models", cmd_models},
    {"status", "what the running hearthd does", cmd_status},
    {"doctor", "check this machine and this installation", cmd_doctor},
    {"pair", "pair a phone or browser by QR code or link", cmd_pair},
    {"people", "who lives with this box", cmd_people},
    {"devices", "paired devices: list and revoke", cmd_devices},
    {"token", "a token for a program, for the OpenAI-compatible door", cmd_token},
    {"conversations", "list, show, export and delete conversations", cmd_conversations},
    {"tokenize", "text to token ids and back", cmd_tokenize},
    {"logits", "logits of token ids, as a NumPy file", cmd_logits},
    {"bench", "measure speed and memory", cmd_bench},
    {"inspect", "what a model file holds", cmd_inspect},
    {"data", "look at training data", cmd_data},
    {"train", "train a LoRA adapter", cmd_train},
    {"eval", "evaluate a model or an adapter", cmd_eval},
    {"adapter", "look at, compare and convert adapters", cmd_adapter},
    {"convert", "convert a model folder to GGUF", NULL},
    {"quantize", "quantize a model", NULL},
    {"imatrix", "compute an importance matrix", NULL},
    {"embed", "text to embedding vectors", NULL},
    {"recipe", "learning recipes", NULL},
    {"consent", "what may be learnt from", NULL},
    {"forget", "delete and unlearn", NULL},
    {"nights", "what the nights have learnt", NULL},
    {"backup", "back up and restore", NULL},
    {"service", "install hearthd as a service", NULL},
};

static void print_usage(FILE *stream)
{
    fputs("Usage: hearth COMMAND [OPTION]...\n\nA private assistant on your own box.\n\nCommands:\n", stream);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(stream, "  %-14s %s%s\n", commands[i].name, commands[i].help,
                commands[i].run ? "" : " (comes later)");
    fputs("\n'hearth COMMAND --help' tells more; 'hearth --version' tells the version.\n\nExample:\n"
          "  hearth run -p 'What is the capital of France?'\n",
          stream);
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, ""); // line editing wants UTF-8; numbers stay in the C locale
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    json_begin();
    signal(SIGPIPE, SIG_IGN); // a closed pipe is an output error with its own exit code
    if (argc < 2) {
        print_usage(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_usage(stdout);
        return cli_finish(CLI_OK);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("hearth %s\n", hearth_version());
        return cli_finish(CLI_OK);
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name))
            continue;
        if (!commands[i].run)
            return cli_fail(CLI_UNAVAILABLE, "%s comes later", argv[1]);
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "hearth: no command '%s' (see: hearth --help)\n", argv[1]);
    return CLI_USAGE;
}
