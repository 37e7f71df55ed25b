/*
 * Where a child's upward path leads, and which of the roots that
 * VIRTDISK_PARENT_ROOTS names that is in.  That parents are opened there is in
 * test_chain.c.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "disk/parent_path.h"
#include "disk/parent_roots.h"

#define VARIABLE "VIRTDISK_PARENT_ROOTS"

static const char *directory;

static vd_error
climb_as(enum vd_parent_path_kind kind, const char16_t *text, char **out)
{
    char16_t copy[64];
    size_t length = 0;
    do {
        copy[length] = text[length];
    } while (text[length++] != 0);
    struct vd_parent_path path = {.kind = kind, .text = copy};
    *out = NULL;
    return vd_parent_path_climb(&path, "/srv/vm/one/child.vhdx", out);
}

static void
check_leads_to(const char *expected, const char16_t *text)
{
    char *place;
    if (CHECK_OK(climb_as(VD_PARENT_PATH_RELATIVE, text, &place))) {
        CHECK_STR(expected, place);
    }
    free(place);
}

static void
check_refused(vd_error expected, const char16_t *text)
{
    char *place;
    CHECK_EQ(expected, climb_as(VD_PARENT_PATH_RELATIVE, text, &place));
    CHECK(place == NULL);
}

static void
test_up(void)
{
    check_leads_to("/srv/vm/base.vhdx", u"..\\base.vhdx");
    check_leads_to("/srv/vm/base/b.vhdx", u"..\\base\\b.vhdx");
    check_leads_to("/srv/vm/base/b.vhdx", u".\\..\\\\base\\.\\b.vhdx");
    check_leads_to("/srv/vm/b.vhdx", u"two\\..\\..\\b.vhdx");
    check_leads_to("/srv/vm/one/b.vhdx", u"..\\one\\b.vhdx");
    check_leads_to("/srv/vm/..b/.c/b..", u"../..b/.c/b..");
    check_leads_to("/b.vhdx", u"..\\..\\..\\b.vhdx");
    check_leads_to("/etc/passwd", u"..\\..\\..\\etc\\passwd");
}

static void
test_above_the_root_directory(void)
{
    check_refused(ERROR_BAD_PATHNAME, u"..\\..\\..\\..\\b.vhdx");
    check_refused(ERROR_BAD_PATHNAME, u"..\\..\\..\\..\\etc\\passwd");
    check_refused(ERROR_BAD_PATHNAME, u"..\\..\\..\\..\\srv\\vm\\b.vhdx");
    check_refused(ERROR_BAD_PATHNAME, u"a\\..\\..\\..\\..\\..\\b.vhdx");
}

static void
test_not_up(void)
{
    char *place;
    check_refused(ERROR_FILE_NOT_FOUND, u".\\b.vhdx");
    check_refused(ERROR_FILE_NOT_FOUND, u"a..\\..b\\b.vhdx");
    check_refused(ERROR_FILE_NOT_FOUND, u"\\..\\b.vhdx");
    check_refused(ERROR_FILE_NOT_FOUND, u".\\\\..\\b.vhdx");
    check_refused(ERROR_FILE_NOT_FOUND, u"C:\\..\\b.vhdx");
    check_refused(ERROR_FILE_NOT_FOUND, u"..");
    check_refused(ERROR_FILE_NOT_FOUND, u"..\\a\\..");
    check_refused(ERROR_FILE_NOT_FOUND, u"..\\a\\");
    check_refused(ERROR_BAD_PATHNAME, u"\\\\host\\..\\b.vhdx");
    check_refused(ERROR_BAD_PATHNAME, u"..\\a\nb.vhdx");
    for (int kind = VD_PARENT_PATH_ABSOLUTE; kind <= VD_PARENT_PATH_NAME;
         kind++) {
        CHECK_EQ(ERROR_FILE_NOT_FOUND, climb_as((enum vd_parent_path_kind)kind,
                                                u"..\\b.vhdx", &place));
    }
}

/* ---- roots ---- */

/* The list has every %s replaced by the scratch directory. */
static void
set_roots(const char *list)
{
    char text[4096] = "";
    size_t length = 0;
    for (; *list != '\0'; list++) {
        bool here = strncmp(list, "%s", 2) == 0;
        length +=
            (size_t)snprintf(text + length, sizeof(text) - length,
                             here ? "%s" : "%.1s", here ? directory : list);
        list += here;
    }
    if (setenv(VARIABLE, text, 1) < 0) {
        check_broken("setenv");
    }
}

static vd_error
find(const char *path, const char **below)
{
    int root = -1;
    *below = "";
    vd_error error = vd_parent_roots_find(path, &root, below);
    if (error == ERROR_SUCCESS) {
        CHECK(fcntl(root, F_GETFD) == FD_CLOEXEC);
        CHECK((fcntl(root, F_GETFL) & O_PATH) != 0);
        close(root);
    }
    return error;
}

static void
check_inside(const char *list, const char *name, const char *expected)
{
    const char *below;
    set_roots(list);
    if (CHECK_OK(find(check_path(directory, name), &below))) {
        CHECK_STR(expected, below);
    }
}

static void
check_outside(const char *list, const char *name)
{
    const char *below;
    set_roots(list);
    CHECK_EQ(ERROR_FILE_NOT_FOUND, find(check_path(directory, name), &below));
}

static void
test_no_roots(void)
{
    const char *below;
    unsetenv(VARIABLE);
    CHECK_EQ(ERROR_FILE_NOT_FOUND, find("/etc/passwd", &below));
    check_outside("", "a/b.vhdx");
    check_outside("::", "a/b.vhdx");
}

static void
test_roots(void)
{
    check_inside("%s/a", "a/b.vhdx", "b.vhdx");
    check_inside("%s/a", "a/not/there.vhdx", "not/there.vhdx");
    check_inside("%s/a///", "a/b.vhdx", "b.vhdx");
    check_inside("%s/c/../a/.", "a/b.vhdx", "b.vhdx");
    check_outside("%s/a", "ab/b.vhdx");
    check_outside("%s/ab", "a/b.vhdx");
    check_outside("%s/a", "b.vhdx");
    check_outside("%s/a", "a");
    check_outside("%s/a", "a/");
    const char *below;
    set_roots("/");
    CHECK_OK(find("/etc/passwd", &below));
    CHECK_STR("etc/passwd", below);
}

static void
test_several_roots(void)
{
    check_inside("%s/c:%s/a", "a/b.vhdx", "b.vhdx");
    check_inside("%s/a:%s/c", "a/b.vhdx", "b.vhdx");
    check_inside(":a:./a:%s/none:%s/file::%s/a", "a/b.vhdx", "b.vhdx");
    check_inside("%s/a:", "a/b.vhdx", "b.vhdx");
    check_outside("%s/c:%s/ab", "a/b.vhdx");
}

/* A relative root would be another one wherever the program is started. */
static void
test_relative_roots(void)
{
    if (chdir(directory) < 0) {
        check_broken("chdir");
    }
    check_outside("a:./a:.", "a/b.vhdx");
}

/* The directory that the root leads to counts, not its own name. */
static void
test_root_is_a_link(void)
{
    if (symlink("a", check_path(directory, "link")) < 0) {
        check_broken("symlink");
    }
    check_inside("%s/link", "a/b.vhdx", "b.vhdx");
    check_inside("%s/link/", "a/b.vhdx", "b.vhdx");
    check_outside("%s/link", "link/b.vhdx");
}

/* Without memory nothing is "not found". */
static void
test_no_memory(void)
{
    char *place;
    const char *below;
    set_roots("%s/a");
    check_fail_allocation(0);
    CHECK_EQ(ERROR_NOT_ENOUGH_MEMORY,
             find(check_path(directory, "a/b.vhdx"), &below));
    CHECK(check_fail_allocation(-1));
    int failures = 0;
    for (bool failed = true; failed; failures += failed) {
        check_fail_allocation(failures);
        vd_error error =
            climb_as(VD_PARENT_PATH_RELATIVE, u"..\\b.vhdx", &place);
        failed = check_fail_allocation(-1);
        CHECK_EQ(failed ? ERROR_NOT_ENOUGH_MEMORY : ERROR_SUCCESS, error);
        free(place);
    }
    CHECK_EQ(2, failures);
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        check_broken("no scratch directory");
    }
    directory = argv[1];
    mkdir(check_path(directory, "a"), 0700);
    mkdir(check_path(directory, "ab"), 0700);
    mkdir(check_path(directory, "c"), 0700);
    check_write_file(check_path(directory, "file"), "", 0);
    test_up();
    test_above_the_root_directory();
    test_not_up();
    test_no_roots();
    test_roots();
    test_several_roots();
    test_relative_roots();
    test_root_is_a_link();
    test_no_memory();
    return check_result();
}
