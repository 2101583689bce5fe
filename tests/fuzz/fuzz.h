/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the fuzz targets share. Each target is a LLVMFuzzerTestOneInput() in a file of its own; libFuzzer
 * drives it, or replay.c with inputs from a seed (in `make test`). fuzz_world.c is an engine (data path and
 * control plane) in virtual time with a device of memory and one application whose both sides are played from
 * the input's bytes.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdio.h>
#include <stdlib.h>

#include "control/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever comes. */
#define MUST(what)                                                                                           \
	do {                                                                                                 \
		if (!(what)) {                                                                               \
			fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #what);                \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

/* The input, read from its front; zeros when it has ended. */
struct input {
	const uint8_t *data;
	size_t left;
};
static inline uint8_t take8(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}
static inline uint16_t take16(struct input *in)
{
	uint16_t high = take8(in);

	return (uint16_t)(high << 8 | take8(in));
}
static inline uint32_t take32(struct input *in)
{
	uint32_t high = take16(in);

	return high << 16 | take16(in);
}

#define WORLD_CONNS  16u
#define WORLD_PEERS  6u /* remote ports 1000.. */
#define WORLD_FRAMES 64u
#define WORLD_ROOM   2048u

/* The application's view of a connection. */
struct world_conn {
	bool open;
	uint32_t handle, rx_page, tx_page, rx_head, rx_tail, tx_head, tx_tail, tx_origin;
	uint8_t rx_shift, tx_shift;
	bool fin, shut;
};

struct world {
	struct datapath *dp;
	struct control *control;
	struct copy_engine *copy;
	struct device dev;
	struct frame rx[WORLD_FRAMES];
	unsigned rx_count, tx_limit;
	uint8_t *tx_room;
	uint32_t tx_next;
	uint64_t now_us;
	/* the application */
	bool alive;
	struct control_app_info app;
	struct flextoe_context_area *area[2];
	uint32_t hc_pos[2], ntf_pos[2];
	uint32_t endpoint;
	struct world_conn conn[WORLD_CONNS];
	/* the peers: the last segment that was sent to each */
	struct {
		bool heard;
		uint8_t flags;
		uint32_t seq, ack, len;
	} peer[WORLD_PEERS];
	/* false: what follows from good manners is not checked any more */
	bool polite_app, polite_peer;
};

void world_open(struct world *w);
/* Ends the application and lets everything come to its end; nothing may be left. */
void world_close(struct world *w);
void world_poll(struct world *w, uint32_t step_us);

void world_app_open(struct world *w);
/* A descriptor on a context's ring, if it has room: hc->mark is set. */
void world_post(struct world *w, unsigned context, struct flextoe_hc *hc);
void world_update(struct world *w, struct world_conn *c, uint16_t flags, uint32_t read, uint32_t write);

/* A frame, copied to memory of exactly its size. */
void world_frame(struct world *w, const uint8_t *bytes, uint32_t len, uint16_t flags);
/* Lays a TCP frame of a peer; payload is what belongs at that place of the stream. Returns its length. */
struct world_segment {
	unsigned peer;
	uint32_t seq, ack, len, position;
	uint16_t wnd;
	uint8_t flags;
	bool timestamps;
	uint32_t tsval;
	uint8_t options_len; /* beside the timestamps; a multiple of 4 */
	uint8_t options[24];
};
uint32_t world_segment(const struct world_segment *s, uint8_t *room);
/* The connection of a peer in the data path, or NULL. */
const struct conn *world_conn_of(const struct world *w, unsigned peer);
/* SYN, and ACK when it is answered. */
void world_handshake(struct world *w, unsigned peer, uint32_t irs, uint16_t wnd, bool timestamps);

/* Nothing is left in the control plane. */
bool control_books_closed(const struct control *ctl);

static inline uint8_t stream_byte(uint32_t position)
{
	return (uint8_t)(position * 31u + (position >> 8) * 7u);
}

#endif
