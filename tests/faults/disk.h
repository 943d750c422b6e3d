/* What disk.c, which stands in the way of calls, and durable.c, which knows what a power cut leaves, have in common. */

#ifndef DISK_H
#define DISK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

/* In the order of disk.py's flags. */
enum kind { READ, WRITE, SYNC, TRUNCATE, OPEN, REMOVE, KINDS };
enum class { MAIN, WAL, JOURNAL, SHM, FOLDER, OTHER, CLASSES };

enum {
    BLOCK = 4096,
    MAX_DISKS = 64,
    MAX_DESCRIPTORS = 65536,
    MAX_VERSIONS = 8, /* states of one block, or of a size, that are remembered between two syncs */
    SHORT_WRITE = -1, /* instead of an errno: half is written and said to be so */
};

struct block {
    unsigned char *versions[MAX_VERSIONS]; /* what it was: the durable state first; the file has the present one */
    int count;
    int dirty; /* 0 once a failed sync has dropped it */
};

struct file {
    struct file *next;
    char *name;         /* now, NULL if it has none any more */
    char *durable_name; /* after a power cut */
    int look;           /* our own descriptor, good even when the name is gone */
    int descriptors;
    struct block **blocks;
    off_t block_count;
    off_t sizes[MAX_VERSIONS];
    int size_count;
};

/* A change of names that no sync of its folder has made durable: to == NULL is an unlink, from == NULL a creation. */
struct change {
    struct change *next;
    struct file *file, *replaced;
    char *from, *to;
};

struct disk {
    char folder[PATH_MAX];
    size_t length;
    int used, off;
    struct file *files;
    struct change *changes;
    uint64_t counts[KINDS][CLASSES];
    unsigned kinds, classes;
    uint64_t nth, seen, fired;
    int error, lasting, evict;
};

struct descriptor {
    struct disk *disk;
    struct file *file; /* NULL for a folder or a -shm */
    enum class class;
    int stale; /* opened before the power was cut */
    char *folder;
};

/* libc's own, found in disk.c. */
extern int (*real_open)(const char *, int, ...);
extern int (*real_openat)(int, const char *, int, ...);
extern int (*real_close)(int);
extern ssize_t (*real_read)(int, void *, size_t);
extern ssize_t (*real_pread)(int, void *, size_t, off_t);
extern ssize_t (*real_write)(int, const void *, size_t);
extern ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
extern int (*real_ftruncate)(int, off_t);
extern int (*real_fsync)(int);
extern int (*real_fdatasync)(int);
extern int (*real_unlinkat)(int, const char *, int);
extern int (*real_renameat)(int, const char *, int, const char *);
extern int (*real_posix_fallocate)(int, off_t, off_t);
extern ssize_t (*real_sendfile)(int, int, off_t *, size_t);

void *zeroed(size_t size);
char *copy_of(const char *text);

/* Return what is known of a file that exists; `existed`: already before this call, so that its name is durable. */
struct file *know(struct disk *disk, const char *path, int existed);
off_t size_of(struct file *file);

/* Remember what is about to be changed: bytes from start up to, not including, end; and the size, if that changes. */
void before_change(struct file *file, off_t start, off_t end, off_t size);
void change_names(struct disk *disk, struct file *file, struct file *replaced, const char *from, const char *to);

/* What a sync does, of a folder or a file, and what a sync does that fails. */
void names_are_durable(struct disk *disk, const char *folder);
void content_is_durable(struct file *file);
void content_is_dropped(struct file *file, int evict);

/* Make each file what the power would leave of it; `random` chooses, NULL leaves nothing of what was not synced. */
void cut(struct disk *disk, uint64_t *random);
/* Let go of files that have no name and that nobody has open; or of all. */
void sweep(struct disk *disk);
void forget_all(struct disk *disk);

#endif
