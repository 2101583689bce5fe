/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An application without manners: any descriptor on its rings, any bytes in its words and rings, while peers
 * that have some exchange data with it. It may lose its own connections, nothing else.
 */
#include <string.h>

#include "core/seq.h"
#include "fuzz.h"

static void descriptor(struct world *w, struct input *in)
{
	struct flextoe_hc hc;
	uint8_t how = take8(in);
	struct world_conn *c = &w->conn[take8(in) % WORLD_CONNS];

	memset(&hc, 0, sizeof(hc));
	if (how & 1u) { /* nearly right */
		hc.update = (struct flextoe_hc_update){.conn = c->handle,
			.tx_head = c->tx_head + (uint32_t)(int32_t)(int16_t)take16(in),
			.rx_tail = c->rx_tail + (uint32_t)(int32_t)(int16_t)take16(in),
			.tx_origin = how & 64u ? take16(in) : c->tx_origin,
			.flags = take16(in) & FLEXTOE_HC_FLAGS_ALL,
			.type = FLEXTOE_HC_UPDATE};
	} else if (how & 2u) {
		hc.endpoint = (struct flextoe_hc_endpoint){.cookie = take8(in),
			.endpoint = how & 4u ? w->endpoint : take8(in),
			.remote_addr = to_be32(0x0a000000u + take8(in) % 12u),
			.local_port = to_be16((uint16_t)(78u + take8(in) % 4u)),
			.remote_port = to_be16((uint16_t)(1000u + take8(in) % 8u)),
			.backlog = take8(in),
			.flags = take8(in) & 3u,
			.rx_shift = how & 8u ? take8(in) : 0,
			.tx_shift = how & 16u ? take8(in) : 0,
			.type = (uint8_t)(2u + take8(in) % 4u)};
	} else {
		for (unsigned i = 0; i < 31; i++)
			hc.body[i % 30] = take8(in);
		hc.type = take8(in) % 8u;
		if (hc.type == FLEXTOE_HC_OPTIONS && how & 8u)
			hc.options.target = c->handle;
	}
	world_post(w, how >> 7, &hc);
}

static void scribble(struct world *w, struct input *in)
{
	uint8_t where = take8(in);
	struct flextoe_context_area *area = w->area[where & 1u];
	uint8_t *words = (uint8_t *)area, *rings = (uint8_t *)area->hc;

	if (where & 2u)
		words[take8(in) % sizeof(area->words)] = take8(in);
	else if (where & 4u)
		area->words.ntf_consumed = take32(in);
	else
		rings[take32(in) % (sizeof(area->hc) + sizeof(area->ntf))] = take8(in);
}

static void peer_says(struct world *w, struct input *in)
{
	unsigned peer = take8(in) % WORLD_PEERS;
	const struct conn *c = world_conn_of(w, peer);
	struct world_segment s = {
		.peer = peer, .flags = TCP_ACK_, .wnd = take16(in), .len = take16(in) % 1400u};
	uint8_t room[WORLD_ROOM];

	if (!c)
		return;
	if (take8(in) % 16u == 0)
		s.flags |= TCP_FIN_;
	s.seq = c->tcp.rcv_nxt;
	s.ack = c->tcp.snd_max;
	s.position = s.seq - c->tcp.rx_base;
	s.timestamps = (c->tcp.flags & TCPF_TIMESTAMPS) != 0;
	s.tsval = (uint32_t)(w->now_us / 1000u);
	world_frame(w, room, world_segment(&s, room), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size < 4096 ? size : 4096};
	struct world w;

	world_open(&w);
	world_handshake(&w, 0, 1000, 4000, false);
	world_handshake(&w, 1, 2000, 0xffff, true);
	w.polite_app = false;
	while (in.left) {
		uint8_t what = take8(&in) % 11u;

		if (!w.alive && what < 7)
			what = 10;
		switch (what) {
		case 0:
		case 1:
		case 2:
			descriptor(&w, &in);
			break;
		case 3:
			if (w.area[0] && w.area[1])
				scribble(&w, &in);
			break;
		case 4:
		case 5: {
			struct world_conn *c = &w.conn[take8(&in) % WORLD_CONNS];

			world_update(&w, c, 0, 4096, take16(&in) % 9000u);
			break;
		}
		case 6:
			if (take8(&in) < 64) {
				control_app_close(w.control, w.app.app);
				w.alive = false;
			}
			break;
		case 7:
			peer_says(&w, &in);
			break;
		case 8:
			world_poll(&w, take16(&in));
			break;
		case 9:
			world_handshake(
				&w, take8(&in) % WORLD_PEERS, take32(&in), take16(&in), take8(&in) & 1u);
			break;
		case 10:
			for (unsigned i = 0; i < 4; i++)
				world_poll(&w, 30000);
			world_app_open(&w);
			break;
		}
	}
	world_close(&w);
	return 0;
}
