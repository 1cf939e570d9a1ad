// SPDX-License-Identifier: Apache-2.0
// Names and paths of model files. See model_files.h. Any thread.
#include "firmware/model_files.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_MODELS = 1000, PART_BYTES = 15 }; // "-00002-of-00003"
static const char suffix[] = ".gguf";

static bool ends_with_suffix(const char *name, size_t len)
{
    return len > sizeof suffix - 1 && strcmp(name + len - (sizeof suffix - 1), suffix) == 0;
}

void hd_model_file_name(const char *path, char name[HD_MAX_MODEL_BYTES + 1])
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t len = strlen(base);
    if (ends_with_suffix(base, len))
        len -= sizeof suffix - 1;
    len = len > HD_MAX_MODEL_BYTES ? hd_utf8_cut(base, len, HD_MAX_MODEL_BYTES) : len;
    memcpy(name, base, len);
    name[len] = 0;
    if (!hd_utf8_valid(name, len))
        snprintf(name, HD_MAX_MODEL_BYTES + 1, "model");
}

// A plain file name that can be told on the wire.
static bool name_is_plain(const char *name, size_t len)
{
    if (len == 0 || len > HD_MAX_MODEL_BYTES || name[0] == '.' || !hd_utf8_valid(name, len))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (name[i] == '/' || name[i] == '\\' || (unsigned char)name[i] < 0x20)
            return false;
    }
    return true;
}

enum hearth_status hd_model_file_find(const struct hd_config *config, const char *name,
                                      struct hd_model_file *file, struct hearth_error *err)
{
    size_t len = strlen(name);
    struct stat st;
    memset(file, 0, sizeof *file);
    if (ends_with_suffix(name, len))
        len -= sizeof suffix - 1;
    if (!name_is_plain(name, len))
        return hd_fail(err, HEARTH_INVALID,
                       "a model is chosen by its name in the models folder, 1 to %d bytes",
                       HD_MAX_MODEL_BYTES);
    memcpy(file->name, name, len);
    int n = snprintf(file->path, sizeof file->path, "%s/%s%s", config->models_dir, file->name, suffix);
    if (n < 0 || (size_t)n >= sizeof file->path)
        return hd_fail(err, HEARTH_INVALID, "the model's path is too long");
    if (stat(file->path, &st) != 0 || !S_ISREG(st.st_mode))
        return hd_fail(err, HEARTH_NOT_FOUND, "there is no model of that name in %s", config->models_dir);
    file->size_bytes = (uint64_t)st.st_size;
    return HEARTH_OK;
}

// "-00002-of-00003" and on: a split model is chosen by its first part.
static bool is_later_part(const char *name)
{
    static const char pattern[] = "-ddddd-of-ddddd";
    size_t len = strlen(name);
    const char *part = name + len - PART_BYTES;
    if (len <= PART_BYTES)
        return false;
    for (size_t i = 0; i < PART_BYTES; i++) {
        if (pattern[i] == 'd' ? !isdigit((unsigned char)part[i]) : part[i] != pattern[i])
            return false;
    }
    return strncmp(part, "-00001", 6) != 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct hd_model_file *)a)->name, ((const struct hd_model_file *)b)->name);
}

enum hearth_status hd_model_files_list(const struct hd_config *config, struct hd_model_file **files,
                                       size_t *n, struct hearth_error *err)
{
    *n = 0;
    *files = calloc(MAX_MODELS + 1, sizeof **files);
    if (!*files)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the list of models");
    DIR *dir = opendir(config->models_dir);
    struct dirent *entry;
    struct hearth_error ignored;
    while (dir && *n < MAX_MODELS && (entry = readdir(dir)) != NULL) {
        if (ends_with_suffix(entry->d_name, strlen(entry->d_name)) &&
            hd_model_file_find(config, entry->d_name, &(*files)[*n], &ignored) == HEARTH_OK &&
            !is_later_part((*files)[*n].name))
            (*n)++;
    }
    if (dir)
        closedir(dir);
    qsort(*files, *n, sizeof **files, by_name);
    return HEARTH_OK;
}
