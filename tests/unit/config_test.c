/* SPDX-License-Identifier: BSD-3-Clause */
/* The configuration: what is read, what wins, and what is said about mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"

static struct config config;
static struct config_error err;

/* Reads the text as a file called "x.conf" would be; the name in messages is that of the temporary file. */
static int read_text(const char *text)
{
	char path[] = "/tmp/flextoe-config-XXXXXX";
	int fd = mkstemp(path);
	int rc;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	config_defaults(&config);
	memset(&err, 0, sizeof(err));
	rc = config_read(&config, path, &err);
	unlink(path);
	return rc;
}

static void says(const char *text, const char *message)
{
	assert_int_equal(read_text(text), -EINVAL);
	if (strstr(err.text, message) == NULL)
		fail_msg("'%s' does not say '%s'", err.text, message);
}

static void a_whole_file(void **state)
{
	struct config_address *a = config.address;

	(void)state;
	assert_int_equal(read_text("# a comment\n"
				   "\n"
				   "device tap ft0 netns client peer 10.9.0.1/24 mtu 9000 mac "
				   "02:00:00:00:00:01 # another\n"
				   "address 10.9.0.2/24\n"
				   "device dpdk net_null0 eal \"--no-huge -m 64\"\n"
				   "address 10.8.0.2/16 device net_null0\n"
				   "route 0.0.0.0/0 via 10.8.1.1\n"
				   "route 192.168.0.0/16 device ft0\n"
				   "rx-buffer 1M\nregion 1G\nidle spin\nspin-us 7\ncore 1\nall-routes "
				   "on\nports 1000-2000\n"
				   "socket-mode 600"),
		0);
	assert_int_equal(config_finish(&config, &err), 0);
	assert_int_equal(config.device_count, 2);
	assert_int_equal(config.device[0].kind, CONFIG_TAP);
	assert_string_equal(config.device[0].netns, "client");
	assert_int_equal(config.device[0].mtu, 9000);
	assert_int_equal(config.device[0].mac[5], 1);
	assert_true(config.device[0].offload);
	assert_string_equal(config.device[1].eal_args, "--no-huge -m 64");
	assert_int_equal(a[0].addr, inet_addr("10.9.0.2"));
	assert_int_equal(a[0].device, 0);
	assert_int_equal(a[1].device, 1);
	assert_int_equal(a[1].prefix_len, 16);
	assert_int_equal(config.route_count, 2);
	assert_int_equal(config.route[0].device, 1); /* found by the gateway's link */
	assert_int_equal(config.route[1].device, 0);
	assert_int_equal(config.rx_buffer, 1u << 20);
	assert_int_equal(config.region_bytes, 1u << 30);
	assert_int_equal(config.idle, CONFIG_IDLE_SPIN);
	assert_int_equal(config.spin_us, 7);
	assert_int_equal(config.core, 1);
	assert_int_equal(config.all_routes, 1);
	assert_int_equal(config.port_low, 1000);
	assert_int_equal(config.port_high, 2000);
	assert_int_equal(config.socket_mode, 0600);
}

static void flags_win(void **state)
{
	(void)state;
	assert_int_equal(read_text("device tap ft0\naddress 10.9.0.2/24\nspin-us 7\n"), 0);
	assert_int_equal(config_set(&config, "spin-us", "9", &err), 0);
	assert_int_equal(config_set(&config, "address", "10.9.0.3/24", &err), 0);
	assert_int_equal(config.spin_us, 9);
	assert_int_equal(config.address_count, 2);
	assert_int_equal(config_set(&config, "spin-us", "auto", &err), 0);
	assert_true(config.spin_us == CONFIG_AUTO);
	assert_int_equal(config_set(&config, "no-such", "1", &err), -ENOENT);
	assert_int_equal(config_set(&config, "idle", "maybe", &err), -EINVAL);
	assert_string_equal(err.text, "--idle: idle is 'maybe'; sleep|yield|spin is allowed");
}

static void mistakes_are_explained(void **state)
{
	(void)state;
	says("\nbogus 1\n", ":2: 'bogus' is not a setting");
	says("spin-us 1000001\n", "a number from 0 to 1000000 is allowed");
	says("spin-us -1\n", "spin-us is '-1'");
	says("conns auto\n", "conns is 'auto'");
	says("conns 99999999999999999999999\n", "a number from");
	says("conns\n", "conns is ''");
	says("rx-buffer 3000\n", "a power of two from 4K to 1024M is allowed");
	says("rx-buffer 4Q\n", "power of two");
	says("region 18446744073709551615T\n", "region is");
	says("idle sleep now\n", "'now' is too much");
	says("socket-mode 888\n", "octal");
	says("ports 9-8\n", "two numbers");
	says("device eth0\n", "kind 'eth0'");
	says("device tap\n", "name is missing");
	says("device tap a-name-that-is-too-long\n", "too long");
	says("device tap t0\ndevice tap t0\n", "already");
	says("device tap t0 queue 1\n", "a tap device has no option 'queue'");
	says("device tap t0 mtu\n", "mtu is ''");
	says("device tap t0 mac 01:00:00:00:00:00\n", "group address");
	says("device tap t0 mac 02:00:00:00:00\n", "six hexadecimal bytes");
	says("device tap t0 reorder-depth 65\n", "from 1 to 64");
	says("device link l0\n", "create PATH, attach PATH, fd N");
	says("device tap \"t0\n", "a quote that does not end");
	says("address 10.9.0.2/24\n", "needs a device above it");
	says("device tap t0\naddress 10.9.0.2\n", "10.9.0.2/24 is allowed");
	says("device tap t0\naddress 10.9.0.256/24\n", "not an IPv4 address");
	says("device tap t0\naddress 10.9.0.2/33\n", "from 0 to 32");
	says("device tap t0\naddress 127.0.0.1/8\n", "cannot be a host's own");
	says("device tap t0\naddress 224.0.0.1/8\n", "cannot be a host's own");
	says("device tap t0\naddress 10.9.0.2/24 device t1\n", "no device 't1'");
	says("device tap t0\naddress 10.9.0.2/24\naddress 10.9.0.2/24\n", "there already");
	says("device tap t0\naddress 10.9.0.2/24\nroute 0.0.0.0/0 via 10.8.0.1\n", "no address above this");
	says("device tap t0\naddress 10.9.0.2/24\nroute 10.0.0.1/8 via 10.9.0.1\n",
		"bits set behind its length");
	says("device tap t0\naddress 10.9.0.2/24\nroute 10.0.0.0/8\n", "needs via GATEWAY or device NAME");
}

static void limits_hold(void **state)
{
	char text[8192] = "";
	size_t n = 0;

	(void)state;
	for (unsigned i = 0; i < DATAPATH_PORTS_MAX; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "device tap t%u\n", i);
	says(text, "more than 7 devices");
	n = (size_t)snprintf(text, sizeof(text), "device tap t0\n");
	for (unsigned i = 0; i <= CONTROL_ADDRESSES_MAX; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "address 10.9.0.%u/24\n", i + 1);
	says(text, "more than 16 addresses");
	memset(text, 'x', 2000);
	strcpy(text + 2000, "\n");
	says(text, ":1: the line is longer");
	n = (size_t)snprintf(text, sizeof(text), "device tap t0");
	for (unsigned i = 0; i < 60; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, " x");
	says(text, "more than 48 words");
}

static void nothing_to_serve(void **state)
{
	(void)state;
	assert_int_equal(read_text("# empty\n"), 0);
	assert_int_equal(config_finish(&config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "nothing to serve on"));
	assert_int_equal(read_text("device tap t0\n"), 0);
	assert_int_equal(config_finish(&config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no address"));
	config_defaults(&config);
	assert_int_equal(config_read(&config, "/nonexistent/x.conf", &err), -ENOENT);
	assert_non_null(strstr(err.text, "cannot read /nonexistent/x.conf"));
	assert_true(config_read(&config, "/tmp", &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_file),
		cmocka_unit_test(flags_win),
		cmocka_unit_test(mistakes_are_explained),
		cmocka_unit_test(limits_hold),
		cmocka_unit_test(nothing_to_serve),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
