/*
 * Reading the script (script.h), from %DOUBLE_SCRIPT% at the start and from
 * the export double_answer().
 */
#include "script.h"

#include <stdlib.h>
#include <string.h>

enum { ANSWERS = 64 };

static SRWLOCK lock = SRWLOCK_INIT;
static struct answer answers[ANSWERS];
static size_t count;

static void *
allocate(size_t size)
{
    void *memory = malloc(size);

    if (memory == NULL) {
        abort();
    }
    return memory;
}

static void
read_data(struct answer *answer, const char *hex)
{
    size_t size = strlen(hex) / 2;

    answer->data = allocate(size + 1);
    answer->size = size;
    for (size_t i = 0; i < size; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};

        answer->data[i] = (unsigned char)strtoul(digits, NULL, 16);
    }
}

static DWORD *
find_number(struct answer *answer, const char *key)
{
    const struct {
        const char *key;
        DWORD *value;
    } numbers[] = {
        {"when", &answer->when},     {"result", &answer->result},
        {"needed", &answer->needed}, {"gate", &answer->gate},
        {"final", &answer->final},   {"pending", &answer->pending},
    };

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (strcmp(numbers[i].key, key) == 0) {
            return numbers[i].value;
        }
    }
    abort(); /* a misspelt key must not pass for a success */
}

static void
read_pair(struct answer *answer, char *pair)
{
    char *value = strchr(pair, '=');

    if (value == NULL) {
        abort();
    }
    *value++ = 0;
    if (strcmp(pair, "data") == 0) {
        read_data(answer, value);
    }
    else {
        *find_number(answer, pair) = strtoul(value, NULL, 0);
    }
}

static void
read_line(char *line)
{
    struct answer *answer = &answers[count];
    char *rest = NULL;
    const char *function = strtok_s(line, " ", &rest);

    if (function == NULL) {
        return;
    }
    if (count == ANSWERS || strlen(function) >= sizeof answer->function) {
        abort();
    }
    *answer = (struct answer){0};
    strcpy(answer->function, function);
    for (char *pair; (pair = strtok_s(NULL, " ", &rest)) != NULL;) {
        read_pair(answer, pair);
    }
    count++;
}

/* Adds the answers of a script to those there are. */
__declspec(dllexport) void WINAPI
double_answer(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = memcpy(allocate(size), text, size);
    char *rest = NULL;

    AcquireSRWLockExclusive(&lock);
    for (char *line = strtok_s(copy, "\n", &rest); line != NULL;
         line = strtok_s(NULL, "\n", &rest)) {
        read_line(line);
    }
    ReleaseSRWLockExclusive(&lock);
    free(copy);
}

/* Drops all answers. */
__declspec(dllexport) void WINAPI
double_forget(void)
{
    AcquireSRWLockExclusive(&lock);
    for (size_t i = 0; i < count; i++) {
        free(answers[i].data);
    }
    count = 0;
    ReleaseSRWLockExclusive(&lock);
}

/* The first unused answer of the function, else its last. */
static struct answer *
find(const char *function, DWORD version)
{
    struct answer *found = NULL;

    for (size_t i = 0; i < count; i++) {
        struct answer *answer = &answers[i];

        if (strcmp(answer->function, function) == 0 &&
            (answer->when == 0 || answer->when == version)) {
            found = answer;
            if (!found->used) {
                break;
            }
        }
    }
    return found;
}

struct answer
script_next(const char *function, DWORD version)
{
    struct answer copy = {0};

    AcquireSRWLockExclusive(&lock);
    struct answer *answer = find(function, version);
    if (answer != NULL) {
        answer->used = true;
        copy = *answer;
        copy.data = allocate(copy.size + 1);
        if (copy.size != 0) {
            memcpy(copy.data, answer->data, copy.size);
        }
    }
    ReleaseSRWLockExclusive(&lock);
    return copy;
}

BOOL WINAPI
DllMain(HINSTANCE instance, DWORD reason, void *reserved)
{
    const char *text = getenv("DOUBLE_SCRIPT");

    (void)instance;
    (void)reserved;
    if (reason == DLL_PROCESS_ATTACH && text != NULL) {
        double_answer(text);
    }
    return TRUE;
}
