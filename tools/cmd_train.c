// SPDX-License-Identifier: Apache-2.0
// hearth train: an adapter learnt from files, in this process. Main thread, which is the engine thread too.
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/learn.h"
#include "tools/adapters.h"
#include "tools/data_file.h"
#include "tools/hash.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/models.h"
#include "tools/train_box.h"
#include "tools/train_curve.h"

static struct words {
    struct cli_list data;
    struct model_options model;
    const char *out, *name, *schedule, *targets, *mask, *init, *precision, *moments;
    uint64_t rank, max_steps, seq, batch, accum, micro_rows, checkpoint_every, eval_every, patience, seed;
    double alpha, lr, epochs, warmup, dropout, held_out, near, neftune, lora_plus, decay, clip;
    bool resume, truncate, checkpointing, rslora, keep_duplicates;
    const char *person; // of a training in the box
    bool use, discard;
} words = {
    .model = {.n_ctx = 64, .max_sessions = 1},
    .name = "",
    .schedule = "cosine",
    .targets = "all",
    .mask = "assistant",
    .precision = "auto",
    .moments = "f32",
    .rank = 8,
    .batch = 4,
    .accum = 1,
    .alpha = 16,
    .lr = 2e-4,
    .epochs = 3,
    .warmup = 0.03,
    .held_out = 0.05,
    .near = 0.8,
    .lora_plus = 1,
    .clip = 1,
};

static const struct cli_option options[] = {
    {"model", 'm', CLI_TEXT, "MODEL", "file, or name of a model (default: the chosen one)", &words.model.model, 0, 0,
     NULL},
    {"data", 'd', CLI_LIST, "F[:FORMAT][:WEIGHT]", "training data; may be given several times", &words.data, 0, 0,
     NULL},
    {"out", 'o', CLI_TEXT, "DIR", "folder for the adapter, checkpoint, log and manifest", &words.out, 0, 0, NULL},
    {"resume", 0, CLI_FLAG, NULL, "go on from the checkpoint in DIR", &words.resume, 0, 0, NULL},
    {"rank", 0, CLI_COUNT, "N", "rank of the adapter (8)", &words.rank, 1, 4096, NULL},
    {"alpha", 0, CLI_REAL, "A", "scale = alpha / rank (16)", &words.alpha, 1e-6, 1e9, NULL},
    {"rslora", 0, CLI_FLAG, NULL, "scale = alpha / sqrt(rank)", &words.rslora, 0, 0, NULL},
    {"targets", 0, CLI_TEXT, "LIST", "all (default), or linears: attn_q,attn_v; all,output: the head, too",
     &words.targets, 0, 0, NULL},
    {"init", 0, CLI_TEXT, "ADAPTER", "go on from this adapter: its linears, ranks and scales", &words.init, 0, 0, NULL},
    {"lr", 0, CLI_REAL, "R", "learning rate (2e-4)", &words.lr, 0, 1e6, NULL},
    {"schedule", 0, CLI_TEXT, "NAME", "cosine (default), linear or constant", &words.schedule, 0, 0, NULL},
    {"warmup", 0, CLI_REAL, "SHARE", "of the steps in which the rate rises (0.03)", &words.warmup, 0, 1, NULL},
    {"epochs", 0, CLI_REAL, "N", "passes over the data (3)", &words.epochs, 0, 1 << 20, NULL},
    {"max-steps", 0, CLI_COUNT, "N", "optimizer steps, instead of epochs", &words.max_steps, 0, 0, NULL},
    {"seq", 0, CLI_COUNT, "N", "tokens of a sequence (512, or the style's)", &words.seq, 2, 1 << 22, NULL},
    {"batch", 0, CLI_COUNT, "N", "sequences of a batch (4)", &words.batch, 1, 65536, NULL},
    {"accum", 0, CLI_COUNT, "N", "batches of an optimizer step (1)", &words.accum, 1, 65536, NULL},
    {"micro-rows", 0, CLI_COUNT, "N", "tokens computed together: more takes more memory (one sequence)",
     &words.micro_rows, 0, 1 << 24, NULL},
    {"dropout", 0, CLI_REAL, "P", "of what goes into A (0)", &words.dropout, 0, 0.99, NULL},
    {"neftune", 0, CLI_REAL, "A", "noise on the embeddings (0)", &words.neftune, 0, 9999, NULL},
    {"lora-plus", 0, CLI_REAL, "R", "B learns R times faster than A (1)", &words.lora_plus, 1e-3, 9999, NULL},
    {"decay", 0, CLI_REAL, "W", "weight decay (0)", &words.decay, 0, 1, NULL},
    {"clip", 0, CLI_REAL, "N", "largest norm of a gradient (1); 0: any", &words.clip, 0, 1e9, NULL},
    {"mask", 0, CLI_TEXT, "NAME", "what is learned: assistant (default), all, last, or a system's style",
     &words.mask, 0, 0, NULL},
    {"template", 0, CLI_TEXT, "NAME", "chat template (default: the model file's)", &words.model.chat_template, 0, 0,
     NULL},
    {"truncate", 0, CLI_FLAG, NULL, "cut what is longer than a sequence instead of splitting it", &words.truncate, 0, 0,
     NULL},
    {"held-out", 0, CLI_REAL, "SHARE", "conversations kept for evaluation (0.05)", &words.held_out, 0, 0.99, NULL},
    {"near", 0, CLI_REAL, "SHARE", "likeness that makes a near-duplicate (0.8); 0: exact ones only", &words.near, 0, 1,
     NULL},
    {"keep-duplicates", 0, CLI_FLAG, NULL, "leave no duplicates out", &words.keep_duplicates, 0, 0, NULL},
    {"eval-every", 0, CLI_COUNT, "N", "steps between evaluations (an epoch)", &words.eval_every, 0, 0, NULL},
    {"patience", 0, CLI_COUNT, "N", "stop after N evaluations without gain and keep the best adapter", &words.patience,
     0, 1e6, NULL},
    {"checkpoint-every", 0, CLI_COUNT, "N", "steps between checkpoints (50)", &words.checkpoint_every, 0, 0, NULL},
    {"precision", 0, CLI_TEXT, "P", "auto (default), f32 or bf16", &words.precision, 0, 0, NULL},
    {"moments", 0, CLI_TEXT, "M", "of the optimizer: f32 (default), or 8bit in a quarter of the memory", &words.moments,
     0, 0, NULL},
    {"checkpointing", 0, CLI_FLAG, NULL, "less memory, slower: compute each layer again on the way back",
     &words.checkpointing, 0, 0, NULL},
    {"seed", 0, CLI_COUNT, "N", "the same seed gives the same adapter (0)", &words.seed, 0, 0, NULL},
    {"name", 0, CLI_TEXT, "TEXT", "name of the adapter", &words.name, 0, 0, NULL},
    {"person", 0, CLI_TEXT, "PERSON", "start: whose training it is (default: everybody's)", &words.person, 0, 0, NULL},
    {"use", 0, CLI_FLAG, NULL, "start: answer with the adapter when it is done", &words.use, 0, 0, NULL},
    {"discard", 0, CLI_FLAG, NULL, "stop: keep nothing of it", &words.discard, 0, 0, NULL},
};
enum { N_OPTIONS = sizeof options / sizeof options[0] };

struct training {
    const struct cli *cli;
    char **argv;
    int argc;
    struct hearth_engine *engine;
    struct hearth_trainer *trainer;
    struct hearth_adapter *init;
    struct hearth_data_file files[CLI_LIST_MAX];
    char base_path[PATHS_MAX], sha256[HASH_HEX];
    int folder; // locked
    bool tty, shown, told, made_folder; // told: what was left out of the data
    double drawn_s, held_out, loss;
    uint64_t first_step;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    if (interrupted) // the second one does not wait
        _exit(CLI_INTERRUPTED);
    interrupted = number;
}

// ---------------------------------------------------------------- what is seen while it runs

static void clear_line(struct training *t)
{
    if (t->shown)
        fputs("\r\033[K", stderr);
    t->shown = false;
}

// One line, which is never wider than the terminal: what could not be drawn over would stay.
static void draw_line(struct training *t, double share, const char *text)
{
    char line[256], cells[21] = "";
    int room = progress_columns() - 4 - (int)strlen(text); // beside brackets and a blank
    size_t n = room < 0 ? 0 : room > 20 ? 20 : (size_t)room;
    memset(cells, ' ', n);
    memset(cells, '=', (size_t)(share * (double)n));
    cells[n] = 0;
    snprintf(line, sizeof line, "[%s] %s", cells, text);
    progress_line(n < 5 ? text : line);
    t->drawn_s = progress_clock_s();
    t->shown = true;
}

static void draw_step(struct training *t, const struct hearth_train_step *s)
{
    char text[200], rest[24] = "-", held_out[32] = "";
    if (!t->tty || (progress_clock_s() - t->drawn_s < 0.1 && s->step < s->n_steps))
        return;
    if (s->step > t->first_step)
        progress_rest(rest, s->seconds / (double)(s->step - t->first_step) * (double)(s->n_steps - s->step));
    if (!isnan(t->held_out))
        snprintf(held_out, sizeof held_out, "  held out %.4f", t->held_out);
    snprintf(text, sizeof text, "step %llu of %llu  loss %.4f%s  %.0f tok/s  %s left", (unsigned long long)s->step,
             (unsigned long long)s->n_steps, t->loss, held_out, s->tokens_per_second, rest);
    draw_line(t, (double)s->step / (double)s->n_steps, text);
}

// What goes on where no step ends.
static void draw_other(struct training *t, const struct hearth_train_info *info)
{
    char text[200];
    if (!t->tty || progress_clock_s() - t->drawn_s < 0.1)
        return;
    if (info->state == HEARTH_TRAIN_READING) {
        snprintf(text, sizeof text, "reading: %llu samples", (unsigned long long)(info->n_train + info->n_held_out));
        progress_line(text);
        t->drawn_s = progress_clock_s();
        t->shown = true;
    } else if (info->state == HEARTH_TRAIN_EVALUATING) {
        snprintf(text, sizeof text, "step %llu of %llu  evaluating what is held out: %.0f %%",
                 (unsigned long long)info->last.step, (unsigned long long)info->last.n_steps, 100 * info->evaluated);
        draw_line(t, info->last.n_steps ? (double)info->last.step / (double)info->last.n_steps : 0, text);
    }
}

static void print_json_step(const struct hearth_train_step *s)
{
    if (!isnan(s->held_out))
        printf("{\"step\": %llu, \"steps\": %llu, \"epoch\": %.4f, \"held_out\": %.6f}\n", (unsigned long long)s->step,
               (unsigned long long)s->n_steps, s->epoch, s->held_out);
    else
        printf("{\"step\": %llu, \"steps\": %llu, \"epoch\": %.4f, \"loss\": %.6f, \"lr\": %.6g, \"grad_norm\": %.6g, "
               "\"tokens\": %llu, \"targets\": %llu, \"seconds\": %.3f, \"tokens_per_second\": %.1f}\n",
               (unsigned long long)s->step, (unsigned long long)s->n_steps, s->epoch, s->loss, s->lr, s->grad_norm,
               (unsigned long long)s->tokens, (unsigned long long)s->targets, s->seconds, s->tokens_per_second);
    fflush(stdout);
}

static void on_step(void *user, const struct hearth_train_step *s)
{
    struct training *t = user;
    if (!isnan(s->held_out)) {
        t->held_out = s->held_out;
    } else {
        t->loss = s->loss;
    }
    if (t->cli->json)
        print_json_step(s);
    else if (isnan(s->held_out))
        draw_step(t, s);
}

// ---------------------------------------------------------------- preparing

static bool there(const struct training *t, const char *name)
{
    return !faccessat(t->folder, name, F_OK, 0);
}

// Makes the folder, or sees that it is free for this run; nobody else works in it while it is locked.
static int open_folder(struct training *t)
{
    const char *out = words.out;
    t->made_folder = mkdir(out, 0777) == 0;
    if (!t->made_folder && errno != EEXIST)
        return cli_fail(CLI_CANTCREAT, "%s: cannot make the folder: %s", out, strerror(errno));
    t->folder = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->folder < 0)
        return cli_fail(CLI_CANTCREAT, "%s: cannot open the folder: %s", out, strerror(errno));
    if (flock(t->folder, LOCK_EX | LOCK_NB))
        return cli_fail(CLI_TEMPFAIL, "%s: another training works in this folder", out);
    if (!words.resume && (there(t, "checkpoint.bin") || there(t, "manifest.json") || there(t, "adapter.gguf")))
        return cli_fail(CLI_CANTCREAT, "%s: holds a training already: go on with --resume, or name another folder",
                        out);
    if (words.resume && !there(t, "checkpoint.bin") && !there(t, "manifest.json"))
        cli_note("%s: holds no training to go on with: it begins", out);
    return CLI_OK;
}

static int choose(const struct cli *cli, struct hearth_train_params *p)
{
    static const char *const schedules[] = {"cosine", "linear", "constant"};
    static const char *const precisions[] = {"auto", "f32", "bf16"};
    bool bytes = !strcmp(words.moments, "8bit");
    int schedule = -1, precision = -1;
    for (int i = 0; i < 3; i++) {
        schedule = strcmp(words.schedule, schedules[i]) ? schedule : i;
        precision = strcmp(words.precision, precisions[i]) ? precision : i;
    }
    if (schedule < 0)
        return cli_wrong(cli, "--schedule wants cosine, linear or constant, not '%s'", words.schedule);
    if (precision < 0)
        return cli_wrong(cli, "--precision wants auto, f32 or bf16, not '%s'", words.precision);
    if (!bytes && strcmp(words.moments, "f32"))
        return cli_wrong(cli, "--moments wants f32 or 8bit, not '%s'", words.moments);
    if (words.batch * words.accum > 65536)
        return cli_wrong(cli, "--batch times --accum is at most 65536");
    p->schedule = (enum hearth_train_schedule)schedule;
    p->precision = (enum hearth_train_precision)precision;
    p->moments = bytes ? HEARTH_TRAIN_MOMENTS_8BIT : HEARTH_TRAIN_MOMENTS_F32;
    p->n_batch = (unsigned)(words.batch * words.accum);
    return data_file_style(cli, words.mask, &p->data.style);
}

static int set_params(struct training *t, struct hearth_train_params *p)
{
    hearth_train_default(p);
    int code = choose(t->cli, p);
    for (size_t i = 0; i < words.data.n && !code; i++) // words of argv, cut where the paths end
        code = data_file_parse(t->cli, (char *)words.data.items[i], &t->files[i]);
    if (words.truncate)
        p->data.style.too_long = HEARTH_DATA_LONG_RIGHT;
    p->data.files = t->files;
    p->data.n_files = words.data.n;
    p->data.n_seq = (unsigned)words.seq;
    p->data.held_out = words.held_out;
    p->data.near = words.near;
    p->data.keep_duplicates = words.keep_duplicates;
    p->data.seed = p->seed = words.seed;
    p->files.folder = words.out;
    p->base_sha256 = t->sha256;
    p->name = words.name;
    p->targets = words.targets;
    p->rank = (unsigned)words.rank;
    p->alpha = (float)words.alpha;
    p->dropout = (float)words.dropout;
    p->lora_plus = (float)words.lora_plus;
    p->neftune = (float)words.neftune;
    p->rslora = words.rslora;
    p->checkpointing = words.checkpointing;
    p->n_micro_rows = (unsigned)words.micro_rows;
    p->epochs = words.epochs;
    p->max_steps = words.max_steps;
    p->lr = words.lr;
    p->warmup = words.warmup;
    p->decay = words.decay;
    p->clip = words.clip;
    p->eval_every = (unsigned)words.eval_every;
    p->checkpoint_every = (unsigned)words.checkpoint_every;
    p->patience = (unsigned)words.patience;
    p->resume = words.resume;
    p->on_step = on_step;
    p->user = t;
    return code;
}

static bool is_given(const struct cli *cli, const char *name)
{
    for (size_t i = 0; i < cli->n_options; i++)
        if (!strcmp(cli->options[i].name, name))
            return *cli->options[i].given;
    return false;
}

// An adapter to go on from brings its own linears, ranks and scales: words that want others would be passed over.
static int check_init(const struct cli *cli, const struct hearth_adapter *init)
{
    struct hearth_adapter_info info;
    struct hearth_adapter_target target;
    struct hearth_error err = {0};
    const char *other = is_given(cli, "targets") ? "targets" : NULL;
    hearth_adapter_get_info(init, &info);
    if (words.rslora && !info.rslora)
        other = "rslora";
    for (size_t i = 0; i < info.n_targets && !other; i++) {
        if (hearth_adapter_get_target(init, i, false, &target, &err))
            return cli_fail_status(&err);
        if (is_given(cli, "rank") && words.rank != target.rank)
            other = "rank";
        else if (is_given(cli, "alpha") && fabs(words.alpha - (double)target.alpha) > 1e-6 * words.alpha)
            other = "alpha";
    }
    return other ? cli_wrong(cli, "--init goes on with the linears, ranks and scales of %s: leave --%s out", words.init,
                             other) : CLI_OK;
}

static int open_all(struct training *t, struct hearth_train_params *p)
{
    struct hearth_error err = {0};
    struct hearth_train_info info;
    char found[PATHS_MAX];
    int code = set_params(t, p);
    if (!code)
        code = models_find(t->base_path, words.model.model);
    if (!code)
        code = open_folder(t);
    if (code)
        return code;
    if (!models_sha256(t->base_path, t->sha256))
        return cli_fail(CLI_NOINPUT, "cannot read %s: %s", t->base_path, strerror(errno));
    const struct hearth_adapter_base base = {t->base_path, t->sha256};
    if (words.init && hearth_adapter_open(&t->init, adapters_path(found, words.init), &base, &err))
        return cli_fail_status(&err);
    if (t->init && (code = check_init(t->cli, t->init)))
        return code;
    p->init = t->init;
    code = models_open(&t->engine, t->cli, &words.model);
    if (code)
        return code;
    if (hearth_trainer_open(&t->trainer, t->engine, p, &err))
        return cli_fail_status(&err);
    hearth_trainer_get_info(t->trainer, &info);
    t->first_step = info.saved_step;
    if (p->precision == HEARTH_TRAIN_BF16 && !strcmp(info.precision, "f32"))
        cli_note("this CPU has no bf16 arithmetic: training in f32");
    return CLI_OK;
}

// ---------------------------------------------------------------- running

static void print_word(const char *word)
{
    if (word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,=+@")] == 0 && word[0]) {
        fprintf(stderr, " %s", word);
        return;
    }
    fputs(" '", stderr);
    for (; *word; word++)
        fputs(*word == '\'' ? "'\\''" : (char[2]){*word, 0}, stderr);
    fputc('\'', stderr);
}

static void tell_how_to_go_on(const struct training *t, const char *what)
{
    struct hearth_train_info info;
    hearth_trainer_get_info(t->trainer, &info);
    cli_note("%s; the checkpoint is of step %llu. Go on with:", what, (unsigned long long)info.saved_step);
    fputs("  hearth", stderr);
    for (int i = 0; i < t->argc; i++)
        print_word(t->argv[i]);
    fputs(words.resume ? "\n" : " --resume\n", stderr);
}

// Once all data is read: what was left out of it.
static void tell_skips(struct training *t)
{
    struct hearth_data_counts counts;
    enum hearth_data_format format;
    if (!t->told)
        clear_line(t);
    for (size_t i = 0; i < words.data.n && !t->told; i++) {
        hearth_trainer_get_counts(t->trainer, i, &counts, &format);
        data_file_note_skips(t->files[i].path, &counts);
    }
    t->told = true;
}

static int run_all(struct training *t)
{
    const struct sigaction action = {.sa_handler = on_signal};
    struct hearth_train_info info = {0};
    struct hearth_error err = {0};
    bool asked = false;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    while (info.state != HEARTH_TRAIN_DONE) {
        enum hearth_status status = hearth_trainer_run(t->trainer, asked ? 0 : 100, &err);
        if (status) {
            clear_line(t);
            int code = cli_fail_status(&err);
            if (status == HEARTH_IO && there(t, "checkpoint.bin")) // what there is goes on, once the disk has room
                tell_how_to_go_on(t, "not finished");
            return code;
        }
        if (interrupted && !asked)
            hearth_trainer_checkpoint(t->trainer);
        asked = interrupted != 0;
        hearth_trainer_get_info(t->trainer, &info);
        draw_other(t, &info);
        if (info.state > HEARTH_TRAIN_READING)
            tell_skips(t);
        if (asked && info.state != HEARTH_TRAIN_DONE && (!info.saving || info.state == HEARTH_TRAIN_READING))
            break;
    }
    if (info.state == HEARTH_TRAIN_DONE)
        return CLI_OK;
    clear_line(t);
    tell_how_to_go_on(t, "interrupted");
    return CLI_INTERRUPTED;
}

// ---------------------------------------------------------------- the end

// The held-out loss of the adapter that stays, and the one before the first step.
static void print_held_out(const struct curve *curve)
{
    const struct curve_point *p = curve->held_out, *kept = p + curve->n_held_out - 1;
    if (!curve->n_held_out || p->step > 0)
        return;
    for (size_t i = 0; i < curve->n_held_out && words.patience; i++)
        if (p[i].loss < kept->loss)
            kept = &p[i];
    printf("; held-out loss %.4f, before %.4f", kept->loss, p->loss);
    if (words.patience && kept->step > 0)
        printf(" (of step %.0f, the best one)", kept->step);
    else if (words.patience)
        printf(": no step was better than the beginning, which the adapter is");
}

static int print_end(struct training *t, const struct curve *curve)
{
    struct hearth_train_info info;
    hearth_trainer_get_info(t->trainer, &info);
    if (t->cli->json) {
        json_t *end = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:I, s:I}", "done", 1, "step",
                                (json_int_t)info.last.step, "tokens", (json_int_t)info.last.tokens, "targets",
                                (json_int_t)info.last.targets, "samples", (json_int_t)info.n_train,
                                "held_out_samples", (json_int_t)info.n_held_out, "precision", info.precision,
                                "numerics_id", info.numerics_id, "stopped_early", (int)info.stopped_early, "parameters",
                                (json_int_t)info.n_params, "memory_bytes", (json_int_t)info.memory_bytes);
        bool whole = json_put(end, stdout, 0);
        json_decref(end);
        return whole ? cli_finish(CLI_OK) : cli_fail(CLI_OSERR, "out of memory");
    }
    printf("%llu steps%s, %llu samples, %llu tokens, %s", (unsigned long long)info.last.step,
           info.stopped_early ? " (stopped early)" : "", (unsigned long long)info.n_train,
           (unsigned long long)info.last.tokens, info.precision);
    print_held_out(curve);
    printf("\n%s/adapter.gguf\n", words.out);
    return cli_finish(CLI_OK);
}

static int draw_end(struct training *t)
{
    char path[PATHS_MAX];
    struct curve curve;
    clear_line(t);
    if (!paths_join(path, words.out, "log.jsonl") || !curve_read(&curve, path))
        return cli_fail(CLI_IOERR, "%s/log.jsonl: cannot read it: %s", words.out, strerror(errno));
    int code = CLI_OK;
    if (!paths_join(path, words.out, "loss.svg") ||
        !curve_write_svg(&curve, path, words.name[0] ? words.name : words.out))
        code = cli_fail(CLI_IOERR, "%s/loss.svg: cannot write it: %s", words.out, strerror(errno));
    if (!code && !t->cli->json)
        curve_print(&curve, stdout);
    if (!code)
        code = print_end(t, &curve);
    curve_free(&curve);
    return code;
}

// A folder that was made for a run of which nothing came.
static void leave_nothing(const struct training *t)
{
    struct stat log;
    if (!fstatat(t->folder, "log.jsonl", &log, AT_SYMLINK_NOFOLLOW) && log.st_size == 0)
        unlinkat(t->folder, "log.jsonl", 0);
    rmdir(words.out); // goes only where nothing is in it
}

static int train(const struct cli *cli, int argc, char **argv)
{
    static struct training t; // zero, and too large for a stack
    struct hearth_train_params params = {0};
    t = (struct training){.cli = cli, .argc = argc, .argv = argv, .folder = -1, .tty = cli_is_tty(stderr),
                          .held_out = NAN, .loss = NAN};
    int code = open_all(&t, &params);
    if (!code)
        code = run_all(&t);
    if (!code)
        code = draw_end(&t);
    hearth_trainer_close(&t.trainer);
    hearth_adapter_close(&t.init);
    hearth_engine_close(&t.engine);
    if (code && t.made_folder)
        leave_nothing(&t);
    if (t.folder >= 0)
        close(t.folder);
    return code;
}

static int train_files(const struct cli *cli, int argc, char **argv)
{
    if (words.person || words.use || words.discard)
        return cli_wrong(cli, "--person, --use and --discard are for a training in the box");
    if (!words.data.n)
        return cli_wrong(cli, "what shall it learn from? --data FILE");
    if (!words.out)
        return cli_wrong(cli, "where shall the adapter go? --out DIR");
    return train(cli, argc, argv);
}

int cmd_train(int argc, char **argv)
{
    static bool given[N_OPTIONS];
    struct cli_option all[N_OPTIONS];
    struct cli cli = {
        .name = "train",
        .usage = "[-m MODEL] --data F[:FORMAT][:WEIGHT]... --out DIR | start SET NAME | stop [NAME] | status",
        .about = "Trains a LoRA adapter on a model's own 4-bit weights. The same words and seed give the same\n"
                 "adapter, however often it was interrupted: Ctrl-C writes a checkpoint, --resume goes on.\n"
                 "start, stop, status: in the running box, on a data set of its own (hearth data import).\n"
                 "More: docs/training.md.",
        .example = "hearth train --data chats.jsonl --out my-adapter --epochs 3",
        .options = all,
        .n_options = N_OPTIONS,
        .min_args = 0,
        .max_args = 3,
    };
    for (size_t i = 0; i < N_OPTIONS; i++) {
        all[i] = options[i];
        all[i].given = &given[i];
    }
    char **own = calloc((size_t)argc + 1, sizeof *own); // the words as they were: paths are cut out of them later
    bool good = own != NULL;
    for (int i = 0; good && i < argc; i++)
        good = (own[i] = strdup(argv[i])) != NULL;
    int code = good ? cli_parse(&cli, argc, argv) : cli_fail(CLI_OSERR, "out of memory");
    if (code < 0)
        code = cli.n_args ? train_box(&cli, all, N_OPTIONS) : train_files(&cli, argc, own);
    for (int i = 0; own && i < argc; i++)
        free(own[i]);
    free(own);
    return code;
}
