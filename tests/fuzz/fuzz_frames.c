/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames from peers into an engine with connections, and time. The application keeps its manners, so as long
 * as the peers' payload is the stream's, what arrives must be the stream, and what is sent too.
 */
#include <string.h>

#include "core/seq.h"
#include "fuzz.h"

/* SACK blocks (RFC 2018) of bytes that are in flight, or nearly. */
static void sack_blocks(const struct tcp_state *t, struct input *in, struct world_segment *s)
{
	unsigned n = take8(in) % 2u + 1u;

	s->options_len = (uint8_t)(4u + 8u * n);
	memcpy(s->options, (const uint8_t[]){1, 1, 5, (uint8_t)(2u + 8u * n)}, 4);
	for (unsigned i = 0; i < n; i++) {
		uint32_t start = t->snd_una + (uint32_t)(int32_t)(int16_t)take16(in);
		be32 block[2] = {to_be32(start), to_be32(start + take16(in) % 4096u)};

		memcpy(s->options + 4 + 8 * i, block, 8);
	}
}

/* A segment near what the connection expects. */
static void segment(struct world *w, struct input *in, bool mutated)
{
	unsigned peer = take8(in) % WORLD_PEERS;
	const struct conn *c = world_conn_of(w, peer);
	uint8_t what = take8(in), room[WORLD_ROOM];
	struct world_segment s = {.peer = peer, .flags = TCP_ACK_, .wnd = take8(in)};
	uint32_t len;

	if (what & 0x01u)
		s.flags = take8(in);
	if (what & 0x02u)
		s.len = take16(in) % 1461u;
	s.wnd = (uint16_t)(s.wnd * s.wnd);
	if (c) {
		s.seq = c->tcp.rcv_nxt;
		s.ack = c->tcp.snd_max;
		s.timestamps = (c->tcp.flags & TCPF_TIMESTAMPS) != 0;
	} else {
		s.seq = w->peer[peer].ack;
		s.ack = w->peer[peer].seq + w->peer[peer].len;
	}
	s.tsval = (uint32_t)(w->now_us / 1000u);
	if (what & 0x04u)
		s.seq += (uint32_t)(int32_t)(int16_t)take16(in) >> (what & 0x80u ? 0 : 4);
	if (what & 0x08u)
		s.ack += (uint32_t)(int32_t)(int16_t)take16(in);
	if (what & 0x10u)
		s.tsval += (uint32_t)(int32_t)(int8_t)take8(in) * 1000u;
	if ((what & 0x21u) == 0x20u && c) {
		sack_blocks(&c->tcp, in, &s);
	} else if (what & 0x20u) {
		s.options_len = (uint8_t)(take8(in) % 7u * 4u);
		for (unsigned i = 0; i < s.options_len && i < sizeof(s.options); i++)
			s.options[i] = take8(in);
	}
	if (what & 0x40u)
		s.timestamps = !s.timestamps;
	if (c)
		s.position = s.seq - c->tcp.rx_base;
	if (s.len > 1440)
		s.len = 1440;
	len = world_segment(&s, room);
	if (mutated) {
		w->polite_peer = false;
		for (unsigned n = take8(in) % 4u + 1u; n; n--)
			room[take8(in) % (len < 80 ? len : 80)] = take8(in);
		if (take8(in) & 1u)
			len = take16(in) % (len + 1u);
	}
	world_frame(w, room, len, mutated || what & 0x80u ? FRAME_CSUM_GOOD : 0);
}

static void raw(struct world *w, struct input *in)
{
	uint8_t room[128];
	uint32_t len = take8(in) % sizeof(room);

	for (uint32_t i = 0; i < sizeof(room); i++)
		room[i] = i < len ? take8(in) : 0;
	if (len > 6 && len & 1u)
		memcpy(room, w->dev.mac, 6);
	w->polite_peer = false;
	world_frame(w, room, len, FRAME_CSUM_GOOD);
}

static void application(struct world *w, struct input *in)
{
	static const uint16_t flags[16] = {[8] = FLEXTOE_HC_FIN,
		[9] = FLEXTOE_HC_CLOSE,
		[10] = FLEXTOE_HC_ABORT,
		[11] = FLEXTOE_HC_NAGLE,
		[12] = FLEXTOE_HC_NODELAY,
		[13] = FLEXTOE_HC_ACCEPTED};
	struct world_conn *c = &w->conn[take8(in) % WORLD_CONNS];

	for (unsigned i = 0; i < WORLD_CONNS && !c->open; i++)
		c = &w->conn[i];
	world_update(w, c, flags[take8(in) % 16u], take16(in) % 5000u, take16(in) % 9000u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size < 4096 ? size : 4096};
	struct world w;

	world_open(&w);
	world_handshake(&w, 0, take32(&in), take16(&in), take8(&in) & 1u);
	world_handshake(&w, 1, take32(&in), 0xffff, true);
	while (in.left) {
		switch (take8(&in) % 12u) {
		case 0:
		case 1:
		case 2:
		case 3:
			segment(&w, &in, false);
			break;
		case 4:
			world_poll(&w, 10);
			break;
		case 5:
			world_poll(&w, take16(&in));
			break;
		case 6:
			world_poll(&w, take8(&in) * 20000u);
			world_poll(&w, 10);
			break;
		case 7:
		case 8:
			application(&w, &in);
			break;
		case 9:
			segment(&w, &in, true);
			break;
		case 10:
			raw(&w, &in);
			break;
		case 11:
			world_handshake(
				&w, take8(&in) % WORLD_PEERS, take32(&in), take16(&in), take8(&in) & 1u);
			break;
		}
	}
	world_close(&w);
	return 0;
}
