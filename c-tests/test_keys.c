/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "key_search.h"

static void test_a_copy_is_found(void **state)
{
    (void)state;
    expect_a_copy_to_be_found();
}

static void test_auto(void **state)
{
    (void)state;
    expect_no_keys("auto");
}

static void test_aws_lc(void **state)
{
    (void)state;
    expect_no_keys("aws-lc");
}

static void test_ring(void **state)
{
    (void)state;
    expect_no_keys("ring");
}

static void test_openssl(void **state)
{
    (void)state;
    expect_no_keys("openssl");
}

static void test_rustcrypto(void **state)
{
    (void)state;
    expect_no_keys("rustcrypto");
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return search_for_keys(argv, true);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_is_found), cmocka_unit_test(test_auto),
        cmocka_unit_test(test_aws_lc),          cmocka_unit_test(test_ring),
        cmocka_unit_test(test_openssl),         cmocka_unit_test(test_rustcrypto),
    };
    return RUN_ONCE("test_keys", tests);
}
