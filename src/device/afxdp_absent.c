/* SPDX-License-Identifier: BSD-3-Clause */
/* Stands in for afxdp.c in a build without libxdp and libbpf. */
#include "device/internal.h"

#include <errno.h>

int afxdp_open(const struct afxdp_config *config, struct device **out, struct device_error *err)
{
	(void)config;
	(void)out;
	return device_fail(err, -ENOTSUP,
		"built without AF_XDP: install libxdp-dev and clang, and configure with -Dafxdp=enabled");
}
