/* SPDX-License-Identifier: BSD-3-Clause */
/* What the devices share: see internal.h. Called while devices are opened and closed, never per frame. */
#include "device/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

int device_fail(struct device_error *err, int error, const char *format, ...)
{
	if (err) {
		va_list args;

		va_start(args, format);
		vsnprintf(err->text, sizeof(err->text), format, args);
		va_end(args);
	}
	return error;
}

void device_mac_choose(uint8_t out[6], const uint8_t mac[6])
{
	static const uint8_t none[6];

	memcpy(out, mac, 6);
	if (memcmp(mac, none, 6))
		return;
	if (getrandom(out, 6, 0) != 6) {
		uint64_t cycles = cycles_now();

		memcpy(out, &cycles, 6);
	}
	out[0] = (uint8_t)((out[0] & 0xfcu) | 0x02u);
}

uint32_t buffers_stride(uint32_t bytes)
{
	uint32_t lines = (bytes + CACHE_LINE - 1) / CACHE_LINE;

	return (lines | 1u) * CACHE_LINE;
}

int buffers_init(struct buffers *buffers, uint32_t count, uint32_t bytes)
{
	memset(buffers, 0, sizeof(*buffers));
	buffers->stride = buffers_stride(bytes);
	buffers->count = count;
	buffers->map_bytes = (size_t)buffers->stride * count;
	buffers->base = mmap(NULL, buffers->map_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (buffers->base == MAP_FAILED) {
		buffers->base = NULL;
		return -ENOMEM;
	}
	buffers->free = calloc(count, sizeof(*buffers->free));
	if (!buffers->free) {
		buffers_destroy(buffers);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < count; i++)
		buffers_put(buffers, count - 1 - i);
	return 0;
}

void buffers_destroy(struct buffers *buffers)
{
	if (buffers->base)
		munmap(buffers->base, buffers->map_bytes);
	free(buffers->free);
	memset(buffers, 0, sizeof(*buffers));
}
