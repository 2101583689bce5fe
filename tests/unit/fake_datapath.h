/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A data path that does nothing but remember what the control plane asks of it, for the control plane's unit
 * tests: control records are taken one by one, exceptions are put in by the test. Two ports: 0 is a link, 1
 * the loop. Also the frames and checks that those tests share.
 */
#ifndef TESTS_FAKE_DATAPATH_H
#define TESTS_FAKE_DATAPATH_H

#include "control/state.h"

#define OUR_IP	 to_be32(0x0a090002u) /* 10.9.0.2/24 on port 0 */
#define PEER_IP	 to_be32(0x0a090001u)
#define OTHER_IP to_be32(0x0a080002u) /* 10.8.0.2/16, a second address of port 0 */

extern const uint8_t peer_mac[6], our_mac[6];

struct fake_record {
	uint32_t len;
	union {
		uint32_t type;
		struct ctl_conn conn;
		struct ctl_neighbour neighbour;
		struct ctl_region region;
		struct ctl_context context;
		struct ctl_notify notify;
		struct ctl_frame frame;
		uint8_t bytes[2048];
	};
};

/* Time of the next poll. */
extern uint64_t fake_now;
/* 0: the ring down has no limit; else so many records fit until they are taken. */
extern uint32_t fake_limit;

struct datapath *fake_create(void);
void fake_destroy(struct datapath *dp);
struct control_config fake_config(struct datapath *dp);

/* The oldest record nobody took yet, or NULL. Valid until the next call. */
const struct fake_record *fake_take(struct datapath *dp);
/* The same of one type, throwing away what is before it. */
const struct fake_record *fake_take_type(struct datapath *dp, uint32_t type);
unsigned fake_pending(struct datapath *dp);
void fake_clear(struct datapath *dp);
const struct conn_setup *fake_setup(struct datapath *dp, uint32_t index);

/* More bytes of a connection were acknowledged with an echo of a congestion mark. */
void fake_marked(struct datapath *dp, uint32_t index, uint32_t bytes);

void fake_exc(struct datapath *dp, const void *record, uint32_t len);
void fake_event(struct datapath *dp, uint32_t conn, uint32_t events);
void fake_frame(struct datapath *dp, unsigned port, const void *bytes, uint32_t len);
void fake_hc(struct datapath *dp, uint16_t app, uint16_t context, const struct flextoe_hc_endpoint *hc);

/* A TCP segment from PEER_IP:remote_port to OUR_IP:local_port. */
struct fake_segment {
	be32 src, dst; /* 0: PEER_IP and OUR_IP */
	uint16_t src_port, dst_port;
	uint32_t seq, ack;
	uint8_t ctl;
	uint16_t wnd;
	const uint8_t *options;
	uint8_t options_len; /* multiple of 4 */
	const char *payload;
	unsigned port;
};
void fake_segment(struct datapath *dp, const struct fake_segment *s);
/* What a CTL_SEND holds, taken apart as the peer would; checks its checksums. False: it is no TCP segment. */
bool fake_parse(const struct fake_record *r, struct segment *out);

#endif
