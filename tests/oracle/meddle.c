/* Somebody else on the machine, for tests: preloaded into a program, it changes a file at the very moment the program has
 * mapped it, or lets the wall clock run backwards. Clocks that never step are left alone.
 *
 *   MEDDLE_FILE=PATH MEDDLE_HOW=cut|write   cut it to one page, or write to it what stands there
 *   MEDDLE_CLOCK=1                          every look at the wall clock is an hour before the last one
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void meddle(int fd) {
    const char *file = getenv("MEDDLE_FILE"), *how = getenv("MEDDLE_HOW");
    char link[64], path[4096];
    if (!file || !how || fd < 0) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strcmp(path, file)) return;
    /* The file system's clock may stand still for some milliseconds. */
    usleep(30000);
    int other = open(path, O_RDWR | O_CLOEXEC);
    char byte;
    if (!strcmp(how, "cut")) {
        if (ftruncate(other, 4096)) _exit(99);
    } else if (pread(other, &byte, 1, 0) != 1 || pwrite(other, &byte, 1, 0) != 1) {
        _exit(99);
    }
    close(other);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    void *map = (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    if (map != MAP_FAILED) meddle(fd);
    return map;
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap(at, length, protection, flags, fd, offset);
}

static time_t back(void) {
    static time_t hours;
    return getenv("MEDDLE_CLOCK") ? 3600 * __atomic_add_fetch(&hours, 1, __ATOMIC_RELAXED) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec -= back();
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int failed = (int)syscall(SYS_gettimeofday, time, zone);
    if (!failed) time->tv_sec -= back();
    return failed;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
