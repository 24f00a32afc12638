/* Runs a program and tells, on the last line of stderr, its peak resident memory in bytes and its processor time in seconds.
   A child of Python begins with Python's own peak; this one is small. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **command) {
    struct rusage used;
    int status;
    pid_t child = fork();
    if (child == 0) {
        execv(command[1], command + 1);
        _exit(127);
    }
    if (count < 2 || child < 0 || wait4(child, &status, 0, &used) < 0)
        return 126;
    double seconds = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    fprintf(stderr, "\n%ld %.3f\n", used.ru_maxrss * 1024, seconds);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
