/* A disk that fails: preloaded into a program, it lets every write below a folder fail while a switch file is there.

   FAILING_BELOW   the folder's path, or the beginning of one
   FAILING_SWITCH  the file; it holds the number of the error, such as 28 for a full disk
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int failing(const char *path) {
    const char *below = getenv("FAILING_BELOW"), *name = getenv("FAILING_SWITCH");
    if (!below || !name || !path || strncmp(path, below, strlen(below))) return 0;
    int file = REAL(open)(name, O_RDONLY);
    if (file < 0) return 0;
    char text[16] = {0};
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? atoi(text) : 0;
}

static int failing_file(int file) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return failing(path);
}

#define FAIL_IF(error) \
    do { \
        int number = (error); \
        if (number) { \
            errno = number; \
            return -1; \
        } \
    } while (0)

ssize_t write(int file, const void *from, size_t size) { FAIL_IF(failing_file(file)); return REAL(write)(file, from, size); }
ssize_t pwrite(int file, const void *from, size_t size, off_t at) { FAIL_IF(failing_file(file)); return REAL(pwrite)(file, from, size, at); }
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) { FAIL_IF(failing_file(file)); return REAL(pwrite64)(file, from, size, at); }
ssize_t writev(int file, const struct iovec *parts, int count) { FAIL_IF(failing_file(file)); return REAL(writev)(file, parts, count); }
ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) { FAIL_IF(failing_file(file)); return REAL(pwritev)(file, parts, count, at); }
int fsync(int file) { FAIL_IF(failing_file(file)); return REAL(fsync)(file); }
int fdatasync(int file) { FAIL_IF(failing_file(file)); return REAL(fdatasync)(file); }
int mkdir(const char *path, mode_t mode) { FAIL_IF(failing(path)); return REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) { FAIL_IF(failing(to)); return REAL(rename)(from, to); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT)) FAIL_IF(failing(path)); \
        return REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
