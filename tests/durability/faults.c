/* LD_PRELOAD: makes one call on a file below a folder fail. Calls are counted once it is armed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* The fault of the Nth call; from HALF on, of the first writing call from the Nth on. */
enum { NOTHING, FAIL_EIO, FAIL_ENOSPC, HALF, HALF_AND_FULL, FULL };

static char below[4096];
static int kind;
static long wanted, calls, hits;

void faults_arm(long n, int what, const char *folder) {
    snprintf(below, sizeof below, "%s/", folder);
    wanted = n, kind = what, calls = hits = 0;
}
long faults_calls(void) { return calls; }
long faults_hits(void) { return hits; }

static int concerns(const char *path) { return below[0] && path && !strncmp(path, below, strlen(below)); }

/* Return the fault of a call on this path. */
static int decide(const char *path, int writes) {
    if (!concerns(path)) return NOTHING;
    long call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (kind == NOTHING || call < wanted || (kind >= HALF && !writes)) return NOTHING;
    int stays = kind >= HALF_AND_FULL, before = __atomic_fetch_add(&hits, 1, __ATOMIC_SEQ_CST);
    if (before && !stays) return NOTHING;
    if (kind == FULL || (before && stays)) return FAIL_ENOSPC;
    return kind == HALF_AND_FULL ? HALF : kind;
}
static int decide_fd(int fd, int writes) {
    char link[64], path[4096];
    if (!below[0]) return NOTHING;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return decide(path, writes);
}
static int failing(int what) {
    errno = what == FAIL_EIO ? EIO : ENOSPC;
    return what == FAIL_EIO || what == FAIL_ENOSPC;
}
#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define WRITES(name, parameters, whole, half)                      \
    ssize_t name parameters {                                      \
        REAL(name);                                                \
        int what = decide_fd(fd, 1);                               \
        if (failing(what)) return -1;                              \
        return what == HALF && size > 1 ? real half : real whole;  \
    }
#define CALLS(name, parameters, what, arguments)                   \
    int name parameters {                                          \
        REAL(name);                                                \
        return failing(what) ? -1 : real arguments;                \
    }
WRITES(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITES(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at))
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at))
WRITES(writev, (int fd, const struct iovec *data, int size), (fd, data, size), (fd, data, size / 2))
WRITES(pwritev, (int fd, const struct iovec *data, int size, off_t at), (fd, data, size, at), (fd, data, size / 2, at))
CALLS(fsync, (int fd), decide_fd(fd, 0), (fd))
CALLS(fdatasync, (int fd), decide_fd(fd, 0), (fd))
CALLS(ftruncate, (int fd, off_t size), decide_fd(fd, 0), (fd, size))
CALLS(ftruncate64, (int fd, off64_t size), decide_fd(fd, 0), (fd, size))
CALLS(rename, (const char *from, const char *to), decide(to, 0), (from, to))
CALLS(unlink, (const char *path), decide(path, 0), (path))
CALLS(mkdir, (const char *path, mode_t mode), decide(path, 0), (path, mode))

/* Opening concerns us where it may create a file. */
#define OPENS(name)                                                                          \
    int name(const char *path, int flags, ...) {                                             \
        REAL(name);                                                                          \
        va_list rest;                                                                        \
        va_start(rest, flags);                                                               \
        mode_t mode = va_arg(rest, mode_t);                                                  \
        va_end(rest);                                                                        \
        return flags & O_CREAT && failing(decide(path, 0)) ? -1 : real(path, flags, mode);   \
    }
OPENS(open)
OPENS(open64)
