/*
 * Checks for the C tests of the engine.
 *
 * A failed check prints file:line and both values and lets the test go on;
 * main ends with `return check_result();`, which is 0 only if at least one
 * check ran and none failed.  The expected value comes first.
 *
 * A program gets a scratch directory of its own as argv[1].  One that cannot
 * run here calls check_skip with the reason.
 */
#ifndef VIRTDISK_TESTS_CHECK_H
#define VIRTDISK_TESTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHECK(condition)                                                      \
    check_true((condition), #condition, __FILE__, __LINE__)

/* Integers of any type; negative ones compare as 64-bit patterns. */
#define CHECK_EQ(expected, actual)                                            \
    check_equal((uint64_t)(expected), (uint64_t)(actual), #actual, __FILE__,  \
                __LINE__)

#define CHECK_OK(error) CHECK_EQ(0, error)

#define CHECK_STR(expected, actual)                                           \
    check_string((expected), (actual), #actual, __FILE__, __LINE__)

#define CHECK_BYTES(expected, actual, length)                                 \
    check_bytes((expected), (actual), (length), #actual, __FILE__, __LINE__)

bool check_true(bool condition, const char *what, const char *file, int line);
bool check_equal(uint64_t expected, uint64_t actual, const char *what,
                 const char *file, int line);
bool check_string(const char *expected, const char *actual, const char *what,
                  const char *file, int line);
bool check_bytes(const void *expected, const void *actual, size_t length,
                 const char *what, const char *file, int line);

/* What main returns. */
int check_result(void);

/* Ends the program as not able to run here, with the reason. */
_Noreturn void check_skip(const char *reason);

/* Ends the program: the test itself, not what it tests, has failed. */
_Noreturn void check_broken(const char *what);

/* "directory/name" in static storage; four are good at a time. */
const char *check_path(const char *directory, const char *name);

/* A new file with this content. */
void check_write_file(const char *path, const void *content, size_t length);

/* Whether a condition comes true; only what never does takes its two
 * minutes. */
bool check_eventually(bool (*condition)(void *context), void *context);

/*
 * A mount namespace of this thread's own; false if that is not permitted.
 * File systems of others on loop devices are let go, but not the one that
 * `directory` is in: unmounting them elsewhere may not reach here, and their
 * devices would be busy as long as this program runs.
 */
bool check_own_mounts(const char *directory);

/* Waits until the engine's watcher, if it is ending, has closed all it has:
 * fork() does so. */
void check_let_watcher_end(void);

/*
 * Lets the allocation after `successes` further ones of this thread fail,
 * once; a negative number lets all succeed again.  Returns whether the one
 * that was to fail before has failed.  Counted are malloc, calloc, realloc,
 * strdup and strndup as the engine calls them.
 */
bool check_fail_allocation(int successes);

#endif
