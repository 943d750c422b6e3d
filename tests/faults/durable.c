/* What of each file is on the disk, and what a power cut leaves.
 *
 * The model of durability:
 * - Content, in blocks of 4 KiB: durable once a sync of its file has succeeded. Until then a power cut leaves of each
 *   block, independently of all others, one of the states that it had since it was last durable.
 * - Size: the same, independently of the content; what was never written reads as zeros.
 * - A sync that fails has dropped what it should have written: the next one reports success without writing it, as
 *   Linux does, unless the block was written again. It can also be told to evict it: then reading shows the loss.
 * - Names (create, unlink, rename): durable once their folder was synced, before that a prefix of them in their order,
 *   as journalling file systems do. A sync of a new file alone does not make its name durable. Folders themselves
 *   are durable when they are made.
 * - The -shm file is memory that happens to have a name: calls on it are counted and refused, nothing is undone.
 */

#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void *zeroed(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory)
        abort();
    return memory;
}

char *copy_of(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        abort();
    return copy;
}

static struct file *file_named(struct disk *disk, const char *path)
{
    for (struct file *file = disk->files; file; file = file->next)
        if (file->name && !strcmp(file->name, path))
            return file;
    return NULL;
}

struct file *know(struct disk *disk, const char *path, int existed)
{
    struct stat there, known;
    struct file *file = file_named(disk, path);
    if (file && !stat(path, &there) && !fstat(file->look, &known) && there.st_ino == known.st_ino)
        return file;
    if (file) { /* somebody else has put another file there */
        free(file->name);
        file->name = NULL;
    }
    int look = real_open(path, O_RDWR | O_CLOEXEC);
    if (look < 0)
        return NULL;
    file = zeroed(sizeof *file);
    file->name = copy_of(path);
    file->durable_name = existed ? copy_of(path) : NULL;
    file->look = look;
    file->next = disk->files;
    disk->files = file;
    return file;
}

/* ---- names ---- */

void change_names(struct disk *disk, struct file *file, struct file *replaced, const char *from, const char *to)
{
    struct change *change = zeroed(sizeof *change), **end = &disk->changes;
    *change = (struct change){NULL, file, replaced, from ? copy_of(from) : NULL, to ? copy_of(to) : NULL};
    while (*end)
        end = &(*end)->next;
    *end = change;
}

static int is_in(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    return path && !strncmp(path, folder, length) && path[length] == '/' && !strchr(path + length + 1, '/');
}

static void make_durable(struct change *change)
{
    free(change->file->durable_name);
    change->file->durable_name = change->to ? copy_of(change->to) : NULL;
    if (change->replaced) {
        free(change->replaced->durable_name);
        change->replaced->durable_name = NULL;
    }
}

static void free_change(struct change *change)
{
    free(change->from);
    free(change->to);
    free(change);
}

void names_are_durable(struct disk *disk, const char *folder)
{
    struct change **at = &disk->changes;
    while (*at) {
        struct change *change = *at;
        if (is_in(change->from, folder) || is_in(change->to, folder)) {
            make_durable(change);
            *at = change->next;
            free_change(change);
        } else {
            at = &change->next;
        }
    }
}

/* ---- content ---- */

off_t size_of(struct file *file)
{
    struct stat stat;
    return fstat(file->look, &stat) ? 0 : stat.st_size;
}

static void free_block(struct file *file, off_t index)
{
    struct block *block = file->blocks[index];
    if (!block)
        return;
    for (int i = 0; i < block->count; i++)
        free(block->versions[i]);
    free(block);
    file->blocks[index] = NULL;
}

static void remember_block(struct file *file, off_t index)
{
    if (index >= file->block_count) {
        off_t count = index + 1 + index / 2;
        file->blocks = realloc(file->blocks, count * sizeof *file->blocks);
        if (!file->blocks)
            abort();
        memset(file->blocks + file->block_count, 0, (count - file->block_count) * sizeof *file->blocks);
        file->block_count = count;
    }
    struct block *block = file->blocks[index];
    if (!block)
        block = file->blocks[index] = zeroed(sizeof *block);
    block->dirty = 1;
    if (block->count == MAX_VERSIONS)
        return;
    unsigned char *content = zeroed(BLOCK);
    if (real_pread(file->look, content, BLOCK, index * BLOCK) < 0)
        abort();
    block->versions[block->count++] = content;
}

void before_change(struct file *file, off_t start, off_t end, off_t size)
{
    off_t present = size_of(file);
    for (off_t index = start / BLOCK; index * BLOCK < end; index++)
        remember_block(file, index);
    if (size == present)
        return;
    if (file->size_count < MAX_VERSIONS)
        file->sizes[file->size_count++] = present;
}

static void put_back(struct file *file, off_t index, const unsigned char *content, off_t size)
{
    off_t start = index * BLOCK;
    if (start >= size)
        return;
    size_t length = size - start < BLOCK ? size - start : BLOCK;
    if (real_pwrite(file->look, content, length, start) != (ssize_t)length)
        abort();
}

void content_is_durable(struct file *file)
{
    for (off_t index = 0; index < file->block_count; index++)
        if (file->blocks[index] && file->blocks[index]->dirty)
            free_block(file, index);
    file->size_count = 0;
}

void content_is_dropped(struct file *file, int evict)
{
    for (off_t index = 0; index < file->block_count; index++) {
        struct block *block = file->blocks[index];
        if (!block || !block->dirty)
            continue;
        block->dirty = 0;
        if (evict) {
            put_back(file, index, block->versions[0], size_of(file));
            free_block(file, index);
        }
    }
}

void sweep(struct disk *disk)
{
    struct file **at = &disk->files;
    while (*at) {
        struct file *file = *at;
        int wanted = file->name || file->durable_name || file->descriptors;
        for (struct change *change = disk->changes; change && !wanted; change = change->next)
            wanted = change->file == file || change->replaced == file;
        if (wanted) {
            at = &file->next;
            continue;
        }
        *at = file->next;
        for (off_t index = 0; index < file->block_count; index++)
            free_block(file, index);
        free(file->blocks);
        real_close(file->look);
        free(file);
    }
}

/* ---- the power cut ---- */

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static int chosen(uint64_t *random, int states)
{
    return random ? (int)(next_random(random) % states) : 0;
}

/* What is left of one file: all of what was not synced, nothing, or a state of its own for each block and the size. */
static void cut_content(struct file *file, uint64_t *random)
{
    int mood = random ? (int)(next_random(random) % 4) : 0;
    off_t size = size_of(file);
    if (file->size_count && mood == 0)
        size = file->sizes[0];
    else if (file->size_count && mood >= 2) {
        int state = chosen(random, file->size_count + 1);
        size = state < file->size_count ? file->sizes[state] : size;
    }
    if (real_ftruncate(file->look, size))
        abort();
    for (off_t index = 0; index < file->block_count; index++) {
        struct block *block = file->blocks[index];
        if (!block)
            continue;
        int state = mood == 1 && block->dirty ? block->count : mood < 2 ? 0 : chosen(random, block->count + 1);
        if (state < block->count)
            put_back(file, index, block->versions[state], size);
        free_block(file, index);
    }
    file->size_count = 0;
}

static void cut_names(struct disk *disk, uint64_t *random)
{
    int count = 0;
    for (struct change *change = disk->changes; change; change = change->next)
        count++;
    int kept = chosen(random, count + 1);
    while (disk->changes) {
        struct change *change = disk->changes;
        if (kept-- > 0)
            make_durable(change);
        disk->changes = change->next;
        free_change(change);
    }
}

static void recreate(struct file *file)
{
    unsigned char content[BLOCK];
    struct stat stat;
    ssize_t got;
    off_t at = 0;
    if (fstat(file->look, &stat))
        abort();
    int anew = real_open(file->durable_name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, stat.st_mode & 0777);
    if (anew < 0)
        abort();
    for (; (got = real_pread(file->look, content, sizeof content, at)) > 0; at += got)
        if (real_pwrite(anew, content, got, at) != got)
            abort();
    real_close(file->look);
    file->look = anew;
}

static int same(const char *a, const char *b)
{
    return a && b ? !strcmp(a, b) : a == b;
}

static void put_names_back(struct disk *disk)
{
    for (struct file *file = disk->files; file; file = file->next)
        if (file->name && !same(file->name, file->durable_name))
            real_unlinkat(AT_FDCWD, file->name, 0);
    for (struct file *file = disk->files; file; file = file->next) {
        if (same(file->name, file->durable_name))
            continue;
        if (file->durable_name)
            recreate(file);
        free(file->name);
        file->name = file->durable_name ? copy_of(file->durable_name) : NULL;
    }
}

void cut(struct disk *disk, uint64_t *random)
{
    for (struct file *file = disk->files; file; file = file->next)
        cut_content(file, random);
    cut_names(disk, random);
    put_names_back(disk);
    sweep(disk);
}

void forget_all(struct disk *disk)
{
    while (disk->changes) {
        struct change *change = disk->changes;
        disk->changes = change->next;
        free_change(change);
    }
    for (struct file *file = disk->files; file; file = file->next) {
        free(file->name);
        free(file->durable_name);
        file->name = file->durable_name = NULL;
    }
    sweep(disk);
}
