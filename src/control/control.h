/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control plane: connection setup and teardown, listeners and ports, neighbours and routes, timers,
 * application registration. Everything but payload. One thread calls all of it; the data path may be polled
 * by the same thread (the default) or by another.
 */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include <stdint.h>
#include <stdio.h>

#include "core/counters.h"
#include "core/wire.h"
#include "datapath/datapath.h"

struct control;

/* The number of an algorithm by its name; 0: there is none. */
uint8_t congestion_number(const char *name);

struct control_address { /* an address of the engine, on a port */
	unsigned port;
	be32 addr;
	uint32_t prefix_len; /* 0..32: of the link */
};

struct control_route {
	be32 prefix;
	uint32_t prefix_len; /* 0..32 */
	unsigned port;
	be32 gateway; /* 0: on the link */
};

/* ECN (RFC 3168): when the peer asks for it; never; asked for by connect() as well. */
enum control_ecn { CONTROL_ECN_PASSIVE = 0, CONTROL_ECN_OFF, CONTROL_ECN_ON };

#define CONTROL_ADDRESSES_MAX 16u
#define CONTROL_ROUTES_MAX    256u
#define CONTROL_PORT_NONE     0xffu

struct control_config {
	struct datapath *dp; /* not owned; its ports are in place */
	struct control_address address[CONTROL_ADDRESSES_MAX];
	uint32_t address_count;
	struct control_route route[CONTROL_ROUTES_MAX]; /* beside those of the links */
	uint32_t route_count;
	unsigned loop_port; /* the port whose device receives what it sends: connections of the engine's own
			       addresses to each other go there. CONTROL_PORT_NONE: there is none */
	uint16_t ephemeral_low, ephemeral_high; /* 0: 32768..60999 */
	uint64_t region_size;			/* bytes of an application's region (sparse); 0: 16 GiB */
	uint8_t rx_shift, tx_shift;		/* default buffers; 0: 18 (256 KiB) */
	uint32_t apps_max, contexts_max;	/* as the data path's */
	uint32_t time_wait_ms;			/* 0: 60000 */
	uint32_t time_wait_max;			/* entries; 0: 65536; the oldest goes when full */
	uint32_t spin_us; /* told to applications: how long a waiting thread looks before it sleeps */
	bool all_routes;  /* told to applications, see struct flextoe_msg_welcome */
	enum control_ecn ecn;
	uint8_t congestion; /* enum flextoe_congestion of who asks for none; 0: CUBIC */
	bool hugepages;	    /* take each region as a whole from the kernel's hugepages; without them ordinary
			       pages */
	uint32_t socket_mode; /* permissions of the control channel's socket; 0: 0660 */
	const char
		*socket_path; /* of the control channel; NULL: none (simulator, benchmarks in one process) */
	int doorbell_fd;      /* eventfd that wakes the engine: given to every context */
	uint64_t secret[2]; /* keys initial sequence numbers (RFC 6528) and hashes; all 0: from getrandom() */
	/* One line, without newline; lower case, the fact first. Rate-limited by the control plane. */
	void (*log)(void *arg, const char *line);
	void *log_arg;
	/* Writes the eventfd of an application that is put out, without waiting for it; NULL: eventfd_write()
	 */
	int (*wake)(void *arg, int fd);
	void *wake_arg;
	/* For reports that include what the daemon knows (device statistics): called per report, may be NULL.
	   For FLEXTOE_STATUS_STAT_JSON it writes members ("name":value,...) without outer commas or braces.
	 */
	void (*report_extra)(void *arg, FILE *out, uint32_t what);
	void *report_arg;
};

/* 0 and the control plane, or a negative errno and a sentence in err (256 bytes). */
int control_create(const struct control_config *config, struct control **out, char err[256]);
/*
 * The orderly end: puts every application out and takes no new one. Go on polling control plane and data path
 * until control_is_quiet() (some milliseconds), so that peers get their RST and regions are withdrawn.
 */
void control_quit(struct control *ctl);
bool control_is_quiet(const struct control *ctl);
/*
 * Frees everything and removes the socket. Connections that are still there are reset when the data path is
 * polled a few rounds after it; regions it may still use then stay mapped until the process ends.
 */
void control_destroy(struct control *ctl);

/*
 * One round: exceptions, timers, and the control channel (sockets are looked at when `sockets` is true; the
 * daemon says so at most every millisecond while busy, and when control_fd() is readable). Returns the number
 * of things handled.
 */
unsigned control_poll(struct control *ctl, uint64_t now_us, bool sockets);
/* When control_poll() is next needed without an event, in microseconds from now; UINT64_MAX for never. */
uint64_t control_next_us(struct control *ctl, uint64_t now_us);
/* An epoll descriptor, readable when control_poll(…, true) has something to do; -1 without a control channel.
 */
int control_fd(const struct control *ctl);

const uint64_t *control_counters(const struct control *ctl);

/* Writes a report (enum flextoe_status_what) of counters or connections. */
void control_report(struct control *ctl, FILE *out, uint32_t what);

/* For kick(): the eventfd a context's application sleeps on, or -1. Any thread. */
int control_wake_fd(const struct control *ctl, uint32_t context);

/* ---- applications in this process, without a control channel (benchmarks, simulator) ---- */

struct control_app_info {
	uint32_t app;
	uint8_t *region; /* mapped */
	int region_fd;	 /* -1 when the region is plain memory */
	uint64_t region_size;
};
int control_app_open(struct control *ctl, const char *name, struct control_app_info *out);
/* Adds a context; its area is at info.region + the offset. wake_fd may be -1 (never sleeps). */
int control_context_open(
	struct control *ctl, uint32_t app, uint32_t *number, uint64_t *area_offset, int *wake_fd);
/* As if the application's process had exited. */
void control_app_close(struct control *ctl, uint32_t app);

#endif
