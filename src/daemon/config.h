/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What flextoed is told: one file of "keyword value ..." lines, and flags of the same names that win over it.
 * config.c owns the parsing and the sentences about what is wrong; it opens nothing but the file.
 */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "control/control.h"
#include "device/device.h"

#define CONFIG_FILE_DEFAULT "/etc/flextoe.conf"
#define CONFIG_TEXT_MAX	    256u
#define CONFIG_AUTO	    UINT64_MAX /* a number that was not given: the engine chooses */

enum config_device_kind { CONFIG_TAP, CONFIG_AFXDP, CONFIG_DPDK, CONFIG_LINK };

/* Where a statement stands, for messages; a flag has line 0. */
struct config_where {
	char file[CONFIG_TEXT_MAX];
	unsigned line;
};

struct config_device {
	enum config_device_kind kind;
	char name[64]; /* of the interface; what `address` and `route` call it */
	struct config_where where;
	char netns[64];
	char peer[64];
	char eal_args[CONFIG_TEXT_MAX];
	char link_path[108]; /* link: UNIX socket over which the memory's descriptor is handed */
	bool link_create;
	uint64_t link_fd; /* link: an inherited descriptor, or CONFIG_AUTO */
	uint64_t mtu, queue, frames;
	uint8_t mac[6];
	bool offload, generic, zero_copy, trust_checksum, exclusive;
	char pcap[CONFIG_TEXT_MAX];
	bool faulty;
	uint64_t seed, drop_ppm, duplicate_ppm, reorder_ppm, corrupt_ppm, reorder_depth;
};

struct config_address {
	be32 addr;
	uint32_t prefix_len;
	unsigned device; /* index */
};

struct config_route {
	be32 prefix, gateway;
	uint32_t prefix_len;
	unsigned device;
};

enum config_idle { CONFIG_IDLE_SLEEP, CONFIG_IDLE_YIELD, CONFIG_IDLE_SPIN };
enum config_log_level { CONFIG_LOG_ERROR, CONFIG_LOG_WARNING, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG };

struct config {
	struct config_device device[DATAPATH_PORTS_MAX];
	unsigned device_count;
	struct config_address address[CONTROL_ADDRESSES_MAX];
	unsigned address_count;
	struct config_route route[CONTROL_ROUTES_MAX];
	unsigned route_count;

	char socket[CONFIG_TEXT_MAX], socket_group[CONFIG_TEXT_MAX];
	uint64_t socket_mode;
	uint64_t conns, apps, contexts, ooo;
	uint64_t region_bytes, rx_buffer, tx_buffer;
	uint64_t port_low, port_high;
	uint64_t time_wait_ms, time_wait_max;
	uint64_t all_routes, loop, hugepages;
	uint64_t congestion; /* enum flextoe_congestion - 1 */
	uint64_t ecn;	     /* 0 off, 1 on, 2 passive */

	uint64_t core, nice;
	uint64_t idle; /* enum config_idle */
	uint64_t spin_us, app_spin_us, poll_us;

	char log[CONFIG_TEXT_MAX];
	uint64_t log_level;
	char prometheus[CONFIG_TEXT_MAX];
};

struct config_error {
	char text[512];
};

void config_defaults(struct config *config);
/* Reads a file over what is there. 0, or a negative errno and a sentence that names file and line. */
int config_read(struct config *config, const char *path, struct config_error *err);
/* One setting by name, as from a flag: "spin-us", "50". -ENOENT: there is no such setting. */
int config_set(struct config *config, const char *name, const char *value, struct config_error *err);
/* What only shows when everything is known: routes without a device, nothing to serve, and the like. */
int config_finish(struct config *config, struct config_error *err);

/* Lists all settings with what they take, for --help. */
void config_help(FILE *out);

#endif
