/* SPDX-License-Identifier: BSD-3-Clause */
/* See fuzz.h. One thread, no clock, no kernel. */
#include "fuzz.h"

#include <string.h>

#include "core/checksum.h"
#include "datapath/stages.h"

#define OUR_IP	 to_be32(0x0a000001u)
#define PEER_IP	 to_be32(0x0a000009u)
#define OUR_PORT 80u

static unsigned memory_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct world *w = container_of(dev, struct world, dev);

	if (n > w->rx_count)
		n = w->rx_count;
	memcpy(frames, w->rx, n * sizeof(*frames));
	w->rx_count -= n;
	memmove(w->rx, w->rx + n, w->rx_count * sizeof(*frames));
	return n;
}

static void memory_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev;
	for (unsigned i = 0; i < n; i++)
		free(frames[i].data);
}

static unsigned memory_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct world *w = container_of(dev, struct world, dev);

	for (unsigned i = 0; i < n; i++)
		frames[i] = (struct frame){
			.data = w->tx_room + (size_t)(w->tx_next++ % (2 * WORLD_FRAMES)) * WORLD_ROOM,
			.room = WORLD_ROOM};
	return n;
}

static void arp_answer(struct world *w, const struct arp_hdr *question)
{
	uint8_t room[42] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 6};
	struct arp_hdr *arp = (struct arp_hdr *)(room + 14);

	*arp = *question;
	arp->op = to_be16(2);
	memcpy(arp->tha, question->sha, 6);
	memcpy(arp->sha, room + 6, 6);
	arp->spa = question->tpa;
	arp->tpa = question->spa;
	if (question->op == to_be16(1) && arp->spa != arp->tpa)
		world_frame(w, room, sizeof(room), 0);
}

/* What we send must be sound; the peer remembers it. */
static void frame_sent(struct world *w, const struct frame *f)
{
	const struct ipv4_hdr *ip = (const struct ipv4_hdr *)(f->data + 14);
	const struct tcp_hdr *tcp = (const struct tcp_hdr *)(ip + 1);
	uint32_t total, off, len, peer;
	const struct conn *c;

	MUST(f->len <= WORLD_ROOM && f->len >= 42);
	if (f->data[12] == 8 && f->data[13] == 6) {
		arp_answer(w, (const struct arp_hdr *)(f->data + 14));
		return;
	}
	total = from_be16(ip->total_len);
	MUST(total + 14 == f->len && checksum_of(ip, 20) == 0 && ip->src == OUR_IP);
	if (ip->protocol != IPPROTO_TCP_)
		return;
	off = (tcp->data_off >> 4) * 4u;
	MUST(off >= 20 && total >= 20 + off);
	MUST(checksum_fold(checksum_add(tcp, total - 20, checksum_pseudo(ip->src, ip->dst, total - 20))) ==
		0xffff);
	len = total - 20 - off;
	MUST(len <= 1460);
	peer = from_be16(tcp->dst_port) - 1000u;
	if (peer >= WORLD_PEERS)
		return;
	w->peer[peer].heard = true;
	w->peer[peer].flags = tcp->flags;
	w->peer[peer].seq = from_be32(tcp->seq);
	w->peer[peer].ack = from_be32(tcp->ack);
	w->peer[peer].len = len;
	c = world_conn_of(w, peer);
	if (!len || !w->polite_app || !c)
		return;
	for (uint32_t i = 0; i < len; i++)
		MUST(((const uint8_t *)tcp)[off + i] ==
			stream_byte(from_be32(tcp->seq) - c->tcp.tx_base + i));
}

static unsigned memory_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct world *w = container_of(dev, struct world, dev);

	if (n > w->tx_limit)
		n = w->tx_limit;
	w->tx_limit -= n;
	for (unsigned i = 0; i < n; i++)
		frame_sent(w, &frames[i]);
	return n;
}

static void memory_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev, (void)frames, (void)n;
}

static void memory_tx_flush(struct device *dev)
{
	(void)dev;
}

static const struct device_ops memory_ops = {
	.name = "memory",
	.rx_burst = memory_rx_burst,
	.rx_release = memory_rx_release,
	.tx_alloc = memory_tx_alloc,
	.tx_burst = memory_tx_burst,
	.tx_free = memory_tx_free,
	.tx_flush = memory_tx_flush,
};

static void kick(void *arg, uint32_t context)
{
	(void)arg, (void)context;
}

void world_open(struct world *w)
{
	struct datapath_config dc = {
		.conns_max = WORLD_CONNS, .apps_max = 2, .contexts_max = 3, .ooo_max = 3};
	struct control_config cc = {.apps_max = 2,
		.contexts_max = 3,
		.region_size = 16u << 20,
		.rx_shift = 12,
		.tx_shift = 13,
		.time_wait_max = 4,
		.loop_port = CONTROL_PORT_NONE,
		.doorbell_fd = -1,
		.secret = {1, 2}};
	char err[256];

	memset(w, 0, sizeof(*w));
	w->dev = (struct device){.ops = &memory_ops, .mtu = 1500, .mac = {2, 0, 0, 0, 0, 1}, .wait_fd = -1};
	w->tx_room = calloc(2 * WORLD_FRAMES, WORLD_ROOM);
	w->now_us = 0xfffff000u; /* 32-bit times wrap early on */
	w->polite_app = w->polite_peer = true;
	w->tx_limit = WORLD_FRAMES;
	dc.copy = w->copy = copy_memcpy_create(2);
	dc.kick = kick;
	w->dp = datapath_create(&dc);
	MUST(w->tx_room && w->copy && w->dp);
	datapath_port_add(w->dp, &w->dev);
	cc.dp = w->dp;
	cc.address[0] = (struct control_address){.port = 0, .addr = OUR_IP, .prefix_len = 24};
	cc.address_count = 1;
	MUST(control_create(&cc, &w->control, err) == 0);
	world_app_open(w);
}

void world_app_open(struct world *w)
{
	struct flextoe_hc hc = {
		.endpoint = {.cookie = 1, .local_port = to_be16(OUR_PORT), .type = FLEXTOE_HC_BIND}};

	if (w->alive || control_app_open(w->control, "fuzz", &w->app) != 0)
		return;
	w->alive = true;
	w->endpoint = 0;
	memset(w->conn, 0, sizeof(w->conn));
	for (unsigned i = 0; i < 2; i++) {
		uint32_t number;
		uint64_t offset;
		int fd;

		w->area[i] = NULL;
		w->hc_pos[i] = w->ntf_pos[i] = 0;
		if (control_context_open(w->control, w->app.app, &number, &offset, &fd) == 0)
			w->area[i] = (struct flextoe_context_area *)(w->app.region + offset);
	}
	world_post(w, 0, &hc);
	world_poll(w, 10);
	world_poll(w, 10);
	if (!w->endpoint)
		return;
	hc.endpoint = (struct flextoe_hc_endpoint){
		.cookie = 1, .endpoint = w->endpoint, .backlog = 5, .type = FLEXTOE_HC_LISTEN};
	world_post(w, 0, &hc);
	world_poll(w, 10);
	world_poll(w, 10);
}

void world_post(struct world *w, unsigned context, struct flextoe_hc *hc)
{
	struct flextoe_context_area *area = w->area[context];
	struct flextoe_hc *slot;

	if (!w->alive || !area || w->hc_pos[context] - area->words.hc_consumed >= FLEXTOE_HC_SLOTS)
		return;
	slot = &area->hc[w->hc_pos[context] & (FLEXTOE_HC_SLOTS - 1u)];
	memcpy(slot, hc, offsetof(struct flextoe_hc, mark));
	slot->mark = flextoe_mark(w->hc_pos[context]++, FLEXTOE_HC_SLOTS);
}

void world_update(struct world *w, struct world_conn *c, uint16_t flags, uint32_t read, uint32_t write)
{
	uint32_t room = (1u << c->tx_shift) - (c->tx_head - c->tx_tail);
	struct flextoe_hc hc = {.update = {.conn = c->handle, .flags = flags, .type = FLEXTOE_HC_UPDATE}};

	if (!c->open)
		return;
	c->rx_tail += min_u32(read, c->rx_head - c->rx_tail);
	write = c->shut ? 0 : min_u32(write, room);
	if (c->tx_head == c->tx_tail)
		c->tx_origin = c->tx_head;
	for (uint32_t i = 0; i < write; i++, c->tx_head++)
		w->app.region[((uint64_t)c->tx_page << 12) +
			      ((c->tx_head - c->tx_origin) & ((1u << c->tx_shift) - 1u))] =
			stream_byte(c->tx_head);
	if (flags & (FLEXTOE_HC_FIN | FLEXTOE_HC_CLOSE))
		c->shut = true;
	if (flags & (FLEXTOE_HC_CLOSE | FLEXTOE_HC_ABORT))
		c->open = false;
	hc.update.tx_head = c->tx_head;
	hc.update.tx_origin = c->tx_origin;
	hc.update.rx_tail = c->rx_tail;
	world_post(w, 0, &hc);
}

static void take_update(struct world *w, const struct flextoe_ntf_update *u)
{
	uint32_t index = flextoe_conn_index(u->conn);
	struct world_conn *c = &w->conn[index < WORLD_CONNS ? index : 0];
	const uint8_t *buffer;

	if (!w->polite_app)
		return;
	MUST(index < WORLD_CONNS);
	if (!c->open || c->handle != u->conn)
		return;
	MUST(!seq_lt(u->rx_head, c->rx_head) && u->rx_head - c->rx_tail <= 1u << c->rx_shift);
	MUST(!seq_lt(u->tx_tail, c->tx_tail) && seq_leq(u->tx_tail, c->tx_head));
	MUST(!c->fin || u->rx_head == c->rx_head);
	buffer = w->app.region + ((uint64_t)c->rx_page << 12);
	if (w->polite_peer)
		for (uint32_t i = c->rx_head; i != u->rx_head; i++)
			MUST(buffer[(i - u->rx_origin) & ((1u << c->rx_shift) - 1u)] == stream_byte(i));
	c->rx_head = u->rx_head;
	c->tx_tail = u->tx_tail;
	c->fin |= (u->flags & FLEXTOE_NTF_FIN) != 0;
}

static void app_look(struct world *w, unsigned context)
{
	struct flextoe_context_area *area = w->area[context];

	for (unsigned n = 0; area && n < FLEXTOE_NTF_SLOTS; n++) {
		struct flextoe_ntf ntf = area->ntf[w->ntf_pos[context] & (FLEXTOE_NTF_SLOTS - 1u)];

		if (ntf.mark != flextoe_mark(w->ntf_pos[context], FLEXTOE_NTF_SLOTS))
			break;
		w->ntf_pos[context]++;
		if (w->polite_app)
			area->words.ntf_consumed = w->ntf_pos[context];
		if (ntf.type == FLEXTOE_NTF_UPDATE)
			take_update(w, &ntf.update);
		if (ntf.type == FLEXTOE_NTF_RESULT && ntf.result.request == FLEXTOE_HC_BIND &&
			ntf.result.cookie == 1 && !ntf.result.error)
			w->endpoint = ntf.result.endpoint;
		if (ntf.type == FLEXTOE_NTF_ACCEPT || ntf.type == FLEXTOE_NTF_CONNECT) {
			struct world_conn *c =
				&w->conn[flextoe_conn_index(ntf.opened.conn) & (WORLD_CONNS - 1u)];

			*c = (struct world_conn){.open = true,
				.handle = ntf.opened.conn,
				.rx_page = ntf.opened.rx_page,
				.tx_page = ntf.opened.tx_page,
				.rx_shift = ntf.opened.rx_shift,
				.tx_shift = ntf.opened.tx_shift};
			if (!w->polite_app)
				c->open = c->rx_shift <= 14 && c->tx_shift <= 14 && c->rx_page < 4000 &&
					  c->tx_page < 4000;
		}
	}
}

/* What each stage says of its state. */
static void state_check(const struct world *w)
{
	uint32_t scheduled = 0, holding = 0;

	for (uint32_t i = 0; i < WORLD_CONNS; i++) {
		const struct conn *c = datapath_conn(w->dp, i);
		const struct tcp_state *t = &c->tcp;

		scheduled += (c->host.flags & HOST_SCHEDULED) != 0;
		if (!(c->host.flags & HOST_LIVE) || protocol_ended(t))
			continue;
		holding += t->ooo != CONN_NONE;
		MUST(!(c->host.flags & HOST_TOUCHED));
		MUST(seq_leq(t->snd_una, t->snd_nxt) && seq_leq(t->snd_nxt, t->snd_max));
		MUST(seq_leq(t->snd_max, t->tx_end + 1u));
		MUST(t->tx_end - tx_data_una(t) <= 1u << t->tx_shift);
		MUST(seq_leq(t->rx_tail, rx_data_end(t)) && seq_leq(t->rcv_nxt, t->rcv_adv));
		MUST(rx_data_end(t) - t->rx_tail <= 1u << t->rx_shift);
		MUST((t->flags & TCPF_FIN_RCVD) || t->rcv_adv - t->rx_tail <= max_u32(1u << t->rx_shift, 0));
		MUST(t->cwnd >= t->mss && t->cwnd < 1u << 30);
		/* whoever waits for an answer has a timer, whoever is watched is watched */
		MUST(t->snd_una == t->snd_max || (t->flags & TCPF_RTO_ARMED));
		MUST(!protocol_timer_wanted(t) || (t->flags & TCPF_TIMER_ON));
		MUST(t->tx_end == t->snd_una || t->snd_una != t->snd_max || (t->flags & TCPF_RTO_ARMED) ||
			(c->host.flags & HOST_SCHEDULED) || (t->flags & TCPF_FIN_SENT));
		if (reassembly_holds(t, &w->dp->ooo)) {
			const struct ooo *o = &w->dp->ooo.entries[t->ooo];

			for (unsigned k = 0; k < o->count; k++) {
				MUST(seq_lt(o->interval[k].start, o->interval[k].end));
				MUST(seq_gt(
					o->interval[k].start, k ? o->interval[k - 1].end : t->rcv_nxt - 1u));
				MUST((t->flags & TCPF_FIN_RCVD) || seq_leq(o->interval[k].end, t->rcv_adv));
			}
		}
	}
	MUST(scheduled == scheduler_count(w->dp) && holding <= w->dp->ooo.used && w->dp->ooo.used <= 3);
}

void world_poll(struct world *w, uint32_t step_us)
{
	w->now_us += step_us;
	w->tx_limit = WORLD_FRAMES;
	control_poll(w->control, w->now_us, false);
	datapath_poll(w->dp, w->now_us);
	state_check(w);
	if (w->alive && w->area[0] && w->area[0]->words.context_dead) { /* put out; its region goes soon */
		MUST(!w->polite_app);
		control_app_close(w->control, w->app.app);
		w->alive = false;
	}
	if (w->alive)
		for (unsigned i = 0; i < 2; i++)
			app_look(w, i);
}

void world_close(struct world *w)
{
	if (w->alive)
		control_app_close(w->control, w->app.app);
	w->alive = false;
	for (unsigned i = 0; i < 3000 && !(control_books_closed(w->control) && !datapath_more(w->dp)); i++)
		world_poll(w, 10000);
	world_poll(w, 10000);
	MUST(control_books_closed(w->control));
	MUST(w->dp->ooo.used == 0 && scheduler_count(w->dp) == 0 && w->dp->event_head == CONN_NONE);
	MUST(w->dp->flows.count == 0 && w->dp->active_count == 0 && w->dp->broken_count == 0);
	while (w->rx_count)
		free(w->rx[--w->rx_count].data);
	control_destroy(w->control);
	datapath_destroy(w->dp);
	w->copy->ops->close(w->copy);
	free(w->tx_room);
}

/* ---- peers ---- */

void world_frame(struct world *w, const uint8_t *bytes, uint32_t len, uint16_t flags)
{
	uint8_t *copy;

	if (w->rx_count == WORLD_FRAMES)
		return;
	copy = malloc(len ? len : 1);
	MUST(copy);
	memcpy(copy, bytes, len);
	w->rx[w->rx_count++] = (struct frame){.data = copy, .len = len, .flags = flags};
}

uint32_t world_segment(const struct world_segment *s, uint8_t *room)
{
	static const uint8_t eth[14] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0};
	uint32_t options = (s->timestamps ? 12u : 0u) + s->options_len, tcp_len = 20u + options + s->len;
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(room + 14);
	struct tcp_hdr *tcp = (struct tcp_hdr *)(ip + 1);
	uint8_t *p = (uint8_t *)(tcp + 1);

	memcpy(room, eth, sizeof(eth));
	*ip = (struct ipv4_hdr){.version_ihl = 0x45,
		.total_len = to_be16((uint16_t)(20u + tcp_len)),
		.ttl = 64,
		.protocol = IPPROTO_TCP_,
		.src = PEER_IP,
		.dst = OUR_IP};
	ip->checksum = checksum_of(ip, sizeof(*ip));
	*tcp = (struct tcp_hdr){.src_port = to_be16((uint16_t)(1000u + s->peer)),
		.dst_port = to_be16(OUR_PORT),
		.seq = to_be32(s->seq),
		.ack = to_be32(s->ack),
		.data_off = (uint8_t)((20u + options) / 4u << 4),
		.flags = s->flags,
		.wnd = to_be16(s->wnd)};
	if (s->timestamps) {
		be32 ts = to_be32(s->tsval);

		memcpy(p, "\1\1\10\12", 4);
		memcpy(p + 4, &ts, 4);
		memset(p + 8, 0, 4);
		p += 12;
	}
	memcpy(p, s->options, s->options_len);
	p += s->options_len;
	for (uint32_t i = 0; i < s->len; i++)
		p[i] = stream_byte(s->position + i);
	tcp->checksum =
		(be16)~checksum_fold(checksum_add(tcp, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len)));
	return 34u + tcp_len;
}

const struct conn *world_conn_of(const struct world *w, unsigned peer)
{
	for (uint32_t i = 0; i < WORLD_CONNS; i++) {
		const struct conn *c = datapath_conn(w->dp, i);

		if (c->host.flags & HOST_HASHED && c->id.remote_port == to_be16((uint16_t)(1000u + peer)))
			return c;
	}
	return NULL;
}

void world_handshake(struct world *w, unsigned peer, uint32_t irs, uint16_t wnd, bool timestamps)
{
	struct world_segment s = {.peer = peer,
		.seq = irs,
		.wnd = wnd,
		.flags = TCP_SYN_,
		.timestamps = timestamps,
		.tsval = (uint32_t)(w->now_us / 1000u),
		.options_len = 12,
		.options = {2, 4, 5, 0xb4, 1, 3, 3, 2, 1, 1, 4, 2}};
	uint8_t room[WORLD_ROOM];

	w->peer[peer].heard = false;
	world_frame(w, room, world_segment(&s, room), 0);
	world_poll(w, 100);
	world_poll(w, 100);
	if (!w->peer[peer].heard || w->peer[peer].flags != (TCP_SYN_ | TCP_ACK_))
		return;
	s.flags = TCP_ACK_;
	s.seq = irs + 1u;
	s.ack = w->peer[peer].seq + 1u;
	s.options_len = 0;
	world_frame(w, room, world_segment(&s, room), 0);
	world_poll(w, 100);
	world_poll(w, 100);
	world_poll(w, 100);
}
