/* SPDX-License-Identifier: BSD-3-Clause */
/* Longest prefix, gateways, source addresses, and what has no route. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fake_datapath.h"

#define IP(a, b, c, d) to_be32((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

static struct datapath *dp;
static struct control_config config;
static struct control *ctl;
static struct route_result route;

static int setup(void **state)
{
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	config.route[config.route_count++] = (struct control_route){
		.prefix = IP(172, 16, 5, 9), .prefix_len = 12, .gateway = IP(10, 8, 0, 1)};
	config.route[config.route_count++] =
		(struct control_route){.prefix = IP(172, 16, 7, 0), .prefix_len = 24};
	assert_int_equal(control_create(&config, &ctl, err), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

static void find(be32 dst, be32 next_hop, be32 source)
{
	assert_int_equal(route_find(ctl, dst, &route), 0);
	assert_int_equal(route.next_hop, next_hop);
	assert_int_equal(route.source, source);
	assert_int_equal(route.port, 0);
	assert_false(route.loop);
}

static void longest_prefix(void **state)
{
	(void)state;
	find(PEER_IP, PEER_IP, OUR_IP);			    /* on the link */
	find(IP(10, 8, 3, 4), IP(10, 8, 3, 4), OTHER_IP);   /* on the other prefix of the link */
	find(IP(172, 20, 0, 1), IP(10, 8, 0, 1), OTHER_IP); /* by a gateway of that prefix */
	find(IP(172, 16, 7, 9), IP(172, 16, 7, 9), OUR_IP); /* longer: on the link without an address */
	find(IP(8, 8, 8, 8), IP(10, 9, 0, 254), OUR_IP);    /* default */
}

static void ourselves(void **state)
{
	(void)state;
	assert_int_equal(route_find(ctl, OTHER_IP, &route), 0);
	assert_true(route.loop);
	assert_int_equal(route.port, 1);
	assert_int_equal(route.source, OTHER_IP);
	ctl->config.loop_port = CONTROL_PORT_NONE;
	assert_int_equal(route_find(ctl, OTHER_IP, &route), -ENETUNREACH);
}

static void nowhere(void **state)
{
	const be32 none[] = {IP(224, 0, 0, 1), IP(255, 255, 255, 255), IP(127, 0, 0, 1), IP(0, 0, 0, 0),
		IP(0, 1, 2, 3), IP(10, 9, 0, 255), IP(10, 9, 0, 0), IP(240, 0, 0, 1)};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(none); i++)
		assert_int_equal(route_find(ctl, none[i], &route), -ENETUNREACH);
	ctl->route_count--; /* the default is the shortest, the last */
	assert_int_equal(route_find(ctl, IP(8, 8, 8, 8), &route), -ENETUNREACH);
}

static void bad_configurations(void **state)
{
	struct control_config bad;
	struct control *none;
	char err[256];

	(void)state;
	bad = config;
	bad.route[0].prefix_len = 33;
	assert_int_equal(control_create(&bad, &none, err), -EINVAL);
	assert_non_null(strstr(err, "route 1"));
	bad = config;
	bad.address[1].port = 9;
	assert_int_equal(control_create(&bad, &none, err), -EINVAL);
	assert_non_null(strstr(err, "address 2"));
	bad = config;
	bad.rx_shift = 40;
	assert_int_equal(control_create(&bad, &none, err), -EINVAL);
	bad = config;
	bad.region_size = 4096;
	assert_int_equal(control_create(&bad, &none, err), -EINVAL);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(longest_prefix), CASE(ourselves), CASE(nowhere), CASE(bad_configurations)};

	return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
