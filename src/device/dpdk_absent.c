/* SPDX-License-Identifier: BSD-3-Clause */
/* Stands in for dpdk.c in a build without DPDK. */
#include "device/internal.h"

#include <errno.h>

int dpdk_open(const struct dpdk_config *config, struct device **out, struct device_error *err)
{
	(void)config;
	(void)out;
	return device_fail(
		err, -ENOTSUP, "built without DPDK: install dpdk-dev and configure with -Ddpdk=enabled");
}
