/* A disk that can be told to fail, for one process: loaded with LD_PRELOAD, driven by tests/faults/disk.py.
 *
 * It stands between SQLite's unix VFS (and whatever else the process does) and libc, for files beneath the folders
 * that were attached. It counts calls, refuses the n-th, and knows of each file what would be left if the power
 * went now. Successful syncs are not passed on to the kernel: what is durable is decided here, which is also why a
 * thousand of them take no time. The model of durability is in durable.c.
 */

#include "disk.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct disk disks[MAX_DISKS];
static int attached; /* disks in use: while there are none, every call goes straight on */
static struct descriptor *descriptors[MAX_DESCRIPTORS];

/* ---- libc's own ---- */

int (*real_open)(const char *, int, ...);
int (*real_openat)(int, const char *, int, ...);
int (*real_close)(int);
ssize_t (*real_read)(int, void *, size_t);
ssize_t (*real_pread)(int, void *, size_t, off_t);
ssize_t (*real_write)(int, const void *, size_t);
ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
int (*real_ftruncate)(int, off_t);
int (*real_fsync)(int);
int (*real_fdatasync)(int);
int (*real_unlinkat)(int, const char *, int);
int (*real_renameat)(int, const char *, int, const char *);
int (*real_posix_fallocate)(int, off_t, off_t);
ssize_t (*real_sendfile)(int, int, off_t *, size_t);

__attribute__((constructor)) static void find_real(void)
{
    *(void **)&real_open = dlsym(RTLD_NEXT, "open64");
    *(void **)&real_openat = dlsym(RTLD_NEXT, "openat64");
    *(void **)&real_close = dlsym(RTLD_NEXT, "close");
    *(void **)&real_read = dlsym(RTLD_NEXT, "read");
    *(void **)&real_pread = dlsym(RTLD_NEXT, "pread64");
    *(void **)&real_write = dlsym(RTLD_NEXT, "write");
    *(void **)&real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    *(void **)&real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    *(void **)&real_fsync = dlsym(RTLD_NEXT, "fsync");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    *(void **)&real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    *(void **)&real_renameat = dlsym(RTLD_NEXT, "renameat");
    *(void **)&real_posix_fallocate = dlsym(RTLD_NEXT, "posix_fallocate64");
    *(void **)&real_sendfile = dlsym(RTLD_NEXT, "sendfile64");
}

/* ---- which disk, which file ---- */

static int absolute(int at, const char *path, char out[PATH_MAX])
{
    char whole[PATH_MAX], parent[PATH_MAX], link[64];
    int length;
    if (path[0] == '/') {
        length = snprintf(whole, sizeof whole, "%s", path);
    } else if (at == AT_FDCWD) {
        if (!getcwd(parent, sizeof parent))
            return 0;
        length = snprintf(whole, sizeof whole, "%s/%s", parent, path);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t got = readlink(link, parent, sizeof parent - 1);
        if (got < 0)
            return 0;
        parent[got] = 0;
        length = snprintf(whole, sizeof whole, "%s/%s", parent, path);
    }
    if (length <= 0 || length >= PATH_MAX)
        return 0;
    while (length > 1 && whole[length - 1] == '/')
        whole[--length] = 0;
    char *last = strrchr(whole, '/');
    char *base = last + 1;
    if (last == whole)
        return snprintf(out, PATH_MAX, "%s", whole) < PATH_MAX;
    *last = 0;
    if (!realpath(whole, parent))
        return 0;
    return snprintf(out, PATH_MAX, "%s/%s", parent, base) < PATH_MAX;
}

static struct disk *disk_of(const char *path)
{
    for (int i = 0; i < MAX_DISKS; i++)
        if (disks[i].used && !strncmp(path, disks[i].folder, disks[i].length) &&
            (path[disks[i].length] == '/' || !path[disks[i].length]))
            return &disks[i];
    return NULL;
}

static enum class class_of(const char *path)
{
    static const struct { const char *end; enum class class; } ends[] = {
        {"-wal", WAL}, {"-journal", JOURNAL}, {"-shm", SHM}, {".db", MAIN}};
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t end = strlen(ends[i].end);
        if (length >= end && !strcmp(path + length - end, ends[i].end))
            return ends[i].class;
    }
    return OTHER;
}

/* ---- faults ---- */

/* Count a call; return 0 to let it pass, an errno, or SHORT_WRITE. */
static int refused(struct disk *disk, enum kind kind, enum class class, int stale)
{
    disk->counts[kind][class]++;
    if (disk->off || stale)
        return EIO;
    if (!disk->nth || !(disk->kinds >> kind & 1) || !(disk->classes >> class & 1))
        return 0;
    disk->seen++;
    if (disk->seen < disk->nth || (disk->seen > disk->nth && !disk->lasting))
        return 0;
    disk->fired++;
    return disk->error;
}

static int fails_with(int error)
{
    pthread_mutex_unlock(&lock);
    errno = error;
    return -1;
}

/* Lock and return the descriptor if it is ours; otherwise return NULL with nothing locked. */
static struct descriptor *ours(int fd)
{
    if (fd < 0 || fd >= MAX_DESCRIPTORS || !__atomic_load_n(&descriptors[fd], __ATOMIC_ACQUIRE))
        return NULL;
    pthread_mutex_lock(&lock);
    if (!descriptors[fd])
        pthread_mutex_unlock(&lock);
    return descriptors[fd];
}

static void forget_descriptor(int fd)
{
    struct descriptor *one = descriptors[fd];
    __atomic_store_n(&descriptors[fd], NULL, __ATOMIC_RELEASE);
    if (one->file)
        one->file->descriptors--;
    free(one->folder);
    free(one);
}

/* ---- what the process calls ---- */

static int open_ours(struct disk *disk, const char *path, int flags, mode_t mode)
{
    struct stat stat;
    struct file *file = NULL;
    int existed = !lstat(path, &stat);
    enum class class = existed && S_ISDIR(stat.st_mode) ? FOLDER : class_of(path);
    int error = refused(disk, OPEN, class, 0);
    if (error > 0)
        return fails_with(error);
    if (class != FOLDER && class != SHM && existed && (file = know(disk, path, 1)) && flags & O_TRUNC)
        before_change(file, 0, stat.st_size, 0);
    int fd = real_open(path, flags, mode);
    if (fd < 0 || fd >= MAX_DESCRIPTORS)
        return fails_with(fd < 0 ? errno : EMFILE);
    if (class != FOLDER && class != SHM && !existed && (file = know(disk, path, 0)))
        change_names(disk, file, NULL, NULL, path);
    if (file)
        file->descriptors++;
    struct descriptor *one = zeroed(sizeof *one);
    *one = (struct descriptor){disk, file, class, 0, class == FOLDER ? copy_of(path) : NULL};
    __atomic_store_n(&descriptors[fd], one, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&lock);
    return fd;
}

static int open_at(int at, const char *path, int flags, mode_t mode)
{
    char whole[PATH_MAX];
    if (__atomic_load_n(&attached, __ATOMIC_ACQUIRE) && path && absolute(at, path, whole)) {
        pthread_mutex_lock(&lock);
        struct disk *disk = disk_of(whole);
        if (disk)
            return open_ours(disk, whole, flags, mode);
        pthread_mutex_unlock(&lock);
    }
    return real_openat(at, path, flags, mode);
}

static mode_t mode_in(int flags, va_list rest)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define OPENS(name)                                                                                                  \
    EXPORT int name(const char *path, int flags, ...)                                                               \
    {                                                                                                                \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode_t mode = mode_in(flags, rest);                                                                          \
        va_end(rest);                                                                                                \
        return open_at(AT_FDCWD, path, flags, mode);                                                                 \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                                                               \
    EXPORT int name(int at, const char *path, int flags, ...)                                                       \
    {                                                                                                                \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode_t mode = mode_in(flags, rest);                                                                          \
        va_end(rest);                                                                                                \
        return open_at(at, path, flags, mode);                                                                       \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

EXPORT int close(int fd)
{
    struct descriptor *one = ours(fd);
    if (one) {
        struct disk *disk = one->disk;
        forget_descriptor(fd);
        sweep(disk);
        pthread_mutex_unlock(&lock);
    }
    return real_close(fd);
}

static int may_read(int fd)
{
    struct descriptor *one = ours(fd);
    if (!one)
        return 1;
    int error = refused(one->disk, READ, one->class, one->stale);
    if (error > 0)
        return fails_with(error) == 0;
    pthread_mutex_unlock(&lock);
    return 1;
}

EXPORT ssize_t read(int fd, void *buffer, size_t length)
{
    return may_read(fd) ? real_read(fd, buffer, length) : -1;
}

EXPORT ssize_t pread64(int fd, void *buffer, size_t length, off_t at)
{
    return may_read(fd) ? real_pread(fd, buffer, length, at) : -1;
}

EXPORT ssize_t pread(int fd, void *buffer, size_t length, off_t at)
{
    return pread64(fd, buffer, length, at);
}

/* Write at a place, or, if that is negative, where the descriptor is. */
static ssize_t write_at(int fd, const void *buffer, size_t length, off_t at)
{
    struct descriptor *one = ours(fd);
    if (!one)
        return at < 0 ? real_write(fd, buffer, length) : real_pwrite(fd, buffer, length, at);
    int error = refused(one->disk, WRITE, one->class, one->stale);
    if (error > 0)
        return fails_with(error);
    if (error == SHORT_WRITE)
        length = (length + 1) / 2;
    if (one->file && length) {
        off_t size = size_of(one->file), start = at;
        if (start < 0)
            start = fcntl(fd, F_GETFL) & O_APPEND ? size : lseek(fd, 0, SEEK_CUR);
        off_t end = start + (off_t)length;
        before_change(one->file, start, end, end > size ? end : size);
    }
    ssize_t done = at < 0 ? real_write(fd, buffer, length) : real_pwrite(fd, buffer, length, at);
    pthread_mutex_unlock(&lock);
    return done;
}

EXPORT ssize_t write(int fd, const void *buffer, size_t length)
{
    return write_at(fd, buffer, length, -1);
}

EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t at)
{
    return write_at(fd, buffer, length, at);
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t length, off_t at)
{
    return write_at(fd, buffer, length, at);
}

EXPORT int ftruncate64(int fd, off_t size)
{
    struct descriptor *one = ours(fd);
    if (!one)
        return real_ftruncate(fd, size);
    int error = refused(one->disk, TRUNCATE, one->class, one->stale);
    if (error > 0)
        return fails_with(error);
    if (one->file)
        before_change(one->file, size, size_of(one->file), size);
    int done = real_ftruncate(fd, size);
    pthread_mutex_unlock(&lock);
    return done;
}

EXPORT int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}

EXPORT int posix_fallocate64(int fd, off_t start, off_t length)
{
    struct descriptor *one = ours(fd);
    if (!one)
        return real_posix_fallocate(fd, start, length);
    int error = refused(one->disk, TRUNCATE, one->class, one->stale);
    if (error <= 0) {
        off_t size = one->file ? size_of(one->file) : 0;
        if (one->file && start + length > size)
            before_change(one->file, 0, 0, start + length);
        error = real_posix_fallocate(fd, start, length);
    }
    pthread_mutex_unlock(&lock);
    return error;
}

EXPORT int posix_fallocate(int fd, off_t start, off_t length)
{
    return posix_fallocate64(fd, start, length);
}

static int sync_ours(struct descriptor *one)
{
    struct disk *disk = one->disk;
    int error = refused(disk, SYNC, one->class, one->stale);
    if (error > 0) {
        if (one->file && !disk->off && !one->stale)
            content_is_dropped(one->file, disk->evict);
        return fails_with(error);
    }
    if (one->file)
        content_is_durable(one->file);
    if (one->class == FOLDER)
        names_are_durable(disk, one->folder);
    sweep(disk);
    pthread_mutex_unlock(&lock);
    return 0;
}

EXPORT int fsync(int fd)
{
    struct descriptor *one = ours(fd);
    return one ? sync_ours(one) : real_fsync(fd);
}

EXPORT int fdatasync(int fd)
{
    struct descriptor *one = ours(fd);
    return one ? sync_ours(one) : real_fdatasync(fd);
}

EXPORT int unlinkat(int at, const char *path, int flags)
{
    char whole[PATH_MAX];
    struct stat stat;
    if (flags & AT_REMOVEDIR || !__atomic_load_n(&attached, __ATOMIC_ACQUIRE) || !absolute(at, path, whole))
        return real_unlinkat(at, path, flags);
    pthread_mutex_lock(&lock);
    struct disk *disk = disk_of(whole);
    if (!disk) {
        pthread_mutex_unlock(&lock);
        return real_unlinkat(at, path, flags);
    }
    enum class class = class_of(whole);
    int error = refused(disk, REMOVE, class, 0);
    if (error > 0)
        return fails_with(error);
    int tracked = class != SHM && !lstat(whole, &stat) && S_ISREG(stat.st_mode);
    struct file *file = tracked ? know(disk, whole, 1) : NULL;
    if (real_unlinkat(AT_FDCWD, whole, 0))
        return fails_with(errno);
    if (file) {
        change_names(disk, file, NULL, whole, NULL);
        free(file->name);
        file->name = NULL;
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

EXPORT int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

EXPORT int renameat(int from_at, const char *from, int to_at, const char *to)
{
    char before[PATH_MAX], after[PATH_MAX];
    struct stat stat;
    if (!__atomic_load_n(&attached, __ATOMIC_ACQUIRE) || !absolute(from_at, from, before) ||
        !absolute(to_at, to, after))
        return real_renameat(from_at, from, to_at, to);
    pthread_mutex_lock(&lock);
    struct disk *disk = disk_of(before);
    if (!disk || disk != disk_of(after)) {
        pthread_mutex_unlock(&lock);
        return real_renameat(from_at, from, to_at, to);
    }
    int error = refused(disk, REMOVE, class_of(before), 0);
    if (error > 0)
        return fails_with(error);
    int tracked = class_of(before) != SHM && !lstat(before, &stat) && S_ISREG(stat.st_mode);
    struct file *file = tracked ? know(disk, before, 1) : NULL;
    struct file *replaced = tracked && !lstat(after, &stat) ? know(disk, after, 1) : NULL;
    if (real_renameat(AT_FDCWD, before, AT_FDCWD, after))
        return fails_with(errno);
    if (file) {
        change_names(disk, file, replaced, before, after);
        free(file->name);
        file->name = copy_of(after);
        if (replaced) {
            free(replaced->name);
            replaced->name = NULL;
        }
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

EXPORT int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

/* Not seen by the above, so not offered: whoever copies falls back to reading and writing. */
EXPORT ssize_t sendfile64(int to, int from, off_t *at, size_t length)
{
    if (ours(to))
        return fails_with(EINVAL);
    return real_sendfile(to, from, at, length);
}

EXPORT ssize_t sendfile(int to, int from, off_t *at, size_t length)
{
    return sendfile64(to, from, at, length);
}

/* ---- what disk.py calls ---- */

EXPORT int disk_attach(const char *folder)
{
    char whole[PATH_MAX];
    if (!realpath(folder, whole))
        return -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_DISKS; i++) {
        if (disks[i].used)
            continue;
        memset(&disks[i], 0, sizeof disks[i]);
        snprintf(disks[i].folder, PATH_MAX, "%s", whole);
        disks[i].length = strlen(whole);
        disks[i].used = 1;
        __atomic_add_fetch(&attached, 1, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&lock);
        return i;
    }
    errno = ENFILE;
    pthread_mutex_unlock(&lock);
    return -1;
}

EXPORT void disk_detach(int number)
{
    struct disk *disk = &disks[number];
    pthread_mutex_lock(&lock);
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++)
        if (descriptors[fd] && descriptors[fd]->disk == disk)
            forget_descriptor(fd);
    forget_all(disk);
    disk->used = 0;
    __atomic_sub_fetch(&attached, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&lock);
}

EXPORT void disk_counts(int number, uint64_t out[KINDS * CLASSES])
{
    pthread_mutex_lock(&lock);
    memcpy(out, disks[number].counts, sizeof disks[number].counts);
    pthread_mutex_unlock(&lock);
}

EXPORT void disk_fail(int number, unsigned kinds, unsigned classes, uint64_t nth, int error, int lasting, int evict)
{
    struct disk *disk = &disks[number];
    pthread_mutex_lock(&lock);
    disk->kinds = kinds;
    disk->classes = classes;
    disk->nth = nth; /* 0: none */
    disk->seen = disk->fired = 0;
    disk->error = error;
    disk->lasting = lasting;
    disk->evict = evict;
    pthread_mutex_unlock(&lock);
}

EXPORT uint64_t disk_fired(int number)
{
    pthread_mutex_lock(&lock);
    uint64_t fired = disks[number].fired;
    pthread_mutex_unlock(&lock);
    return fired;
}

EXPORT uint64_t disk_unsynced(int number)
{
    uint64_t blocks = 0;
    pthread_mutex_lock(&lock);
    for (struct file *file = disks[number].files; file; file = file->next)
        for (off_t index = 0; index < file->block_count; index++)
            blocks += file->blocks[index] != NULL;
    pthread_mutex_unlock(&lock);
    return blocks;
}

EXPORT void disk_power_cut(int number, int reorders, uint64_t seed)
{
    struct disk *disk = &disks[number];
    uint64_t *random = reorders ? &seed : NULL;
    pthread_mutex_lock(&lock);
    disk->off = 1;
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++)
        if (descriptors[fd] && descriptors[fd]->disk == disk)
            descriptors[fd]->stale = 1;
    cut(disk, random);
    pthread_mutex_unlock(&lock);
}

/* Returns how many descriptors of before the cut are still open; the disk stays off while there are any. */
EXPORT int disk_power_on(int number)
{
    struct disk *disk = &disks[number];
    int left = 0;
    pthread_mutex_lock(&lock);
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++)
        left += descriptors[fd] && descriptors[fd]->disk == disk && descriptors[fd]->stale;
    if (!left)
        disk->off = 0;
    pthread_mutex_unlock(&lock);
    return left;
}
