/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DPDK's ethdevs without hugepages, hardware or privilege: net_ring sends to itself, net_null swallows and
 * invents. One process starts the EAL once, so the first test names the arguments for all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "device/device.h"

static const char eal_args[] = "--no-huge -m 128 --no-pci --no-telemetry --no-shconf --log-level=error -l 0 "
			       "--vdev=net_ring0 --vdev=net_null0";

static struct device *open_one(const char *name)
{
	const struct dpdk_config config = {.eal_args = eal_args, .device = name};
	struct device_error err = {0};
	struct device *dev;
	int result = dpdk_open(&config, &dev, &err);

	if (result)
		fail_msg("%s: %s", name, err.text);
	return dev;
}

static void test_ring(void **state)
{
	struct device *dev = open_one("net_ring0");
	struct frame frames[32];
	struct device_stats stats;

	(void)state;
	assert_string_equal(dev->name, "net_ring0");
	assert_int_equal(dev->wait_fd, -1);
	assert_true(dev->ops->wait_begin(dev));
	for (unsigned round = 0; round < 1000; round++) {
		unsigned n = 1 + round % 32;

		assert_int_equal(dev->ops->tx_alloc(dev, frames, n), n);
		for (unsigned i = 0; i < n; i++) {
			assert_true(frames[i].room >= dev->mtu + 128);
			memset(frames[i].data, (int)(round + i), frames[i].len = 60 + round);
		}
		assert_int_equal(dev->ops->tx_burst(dev, frames, n), n);
		dev->ops->tx_flush(dev);
		assert_int_equal(dev->ops->rx_burst(dev, frames, 32), n);
		for (unsigned i = 0; i < n; i++) {
			assert_int_equal(frames[i].len, 60 + round);
			assert_int_equal(frames[i].data[0], (uint8_t)(round + i));
			assert_int_equal(frames[i].data[59 + round], (uint8_t)(round + i));
		}
		dev->ops->rx_release(dev, frames, n);
	}
	dev->ops->stats(dev, &stats);
	assert_int_equal(stats.rx_frames, stats.tx_frames);
	assert_int_equal(stats.tx_dropped, 0);
	dev->ops->close(dev);
}

static void test_null(void **state)
{
	struct device *dev = open_one("net_null0");
	struct frame frames[32];

	(void)state;
	for (unsigned round = 0; round < 1000; round++) {
		unsigned n = dev->ops->rx_burst(dev, frames, 32);

		assert_int_equal(n, 32);
		dev->ops->rx_release(dev, frames, n);
		assert_int_equal(dev->ops->tx_alloc(dev, frames, 32), 32);
		for (unsigned i = 0; i < 32; i++)
			frames[i].len = 64;
		dev->ops->tx_free(dev, &frames[16], 16);
		assert_int_equal(dev->ops->tx_burst(dev, frames, 16), 16);
	}
	dev->ops->close(dev);
}

static void test_refused(void **state)
{
	const struct dpdk_config nobody = {.eal_args = eal_args, .device = "net_nobody0"};
	const struct dpdk_config nameless = {.eal_args = eal_args};
	struct device_error err;
	struct device *dev;

	(void)state;
	assert_int_equal(dpdk_open(&nobody, &dev, &err), -ENODEV);
	assert_non_null(strstr(err.text, "net_nobody0"));
	assert_int_equal(dpdk_open(&nameless, &dev, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_null),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
