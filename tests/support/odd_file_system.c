// SPDX-License-Identifier: Apache-2.0
// A file system that lacks what others have, to be preloaded: ODD_FSYNC is the errno of fsync of a directory,
// ODD_FLOCK that of flock, ODD_RENAME that of rename.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static int odd(const char *name)
{
    const char *value = getenv(name);
    if (value != NULL)
        errno = atoi(value);
    return value != NULL;
}

int fsync(int descriptor)
{
    static int (*real)(int);
    struct stat status;
    if (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode) && odd("ODD_FSYNC"))
        return -1;
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return real(descriptor);
}

int flock(int descriptor, int operation)
{
    static int (*real)(int, int);
    if (odd("ODD_FLOCK"))
        return -1;
    if (real == NULL)
        real = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    return real(descriptor, operation);
}

int rename(const char *from, const char *to)
{
    static int (*real)(const char *, const char *);
    if (odd("ODD_RENAME"))
        return -1;
    if (real == NULL)
        real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    return real(from, to);
}
