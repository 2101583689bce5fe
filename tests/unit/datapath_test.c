/* SPDX-License-Identifier: BSD-3-Clause */
/* The fused pipeline between a device, an application's region and the control plane, all played by the rig.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/rig.h"
#include "core/checksum.h"
#include "core/seq.h"

#define OFFLOADS (DEVICE_TX_CSUM | DEVICE_RX_CSUM | DEVICE_TSO)

static struct rig rig;
static uint8_t rooms[RIG_FRAMES][4096];

static int setup_with(uint32_t conns, uint32_t caps)
{
	return rig_open(&rig, conns, 16, caps);
}
static int setup(void **state)
{
	(void)state;
	return setup_with(4, 0);
}
static int setup_offloads(void **state)
{
	(void)state;
	return setup_with(4, OFFLOADS);
}
static int setup_many(void **state)
{
	(void)state;
	return setup_with(6000, OFFLOADS);
}
static int teardown(void **state)
{
	(void)state;
	rig_close(&rig);
	return 0;
}

static uint64_t counted(enum counter c)
{
	return datapath_counters(rig.dp)[c];
}

/* Whether the device vouches for what comes in: then a frame takes the short way through pre and protocol.
 * Every test runs once with and once without. */
static uint16_t vouched;

static void in(uint32_t conn, uint32_t seq, uint32_t ack, uint8_t flags, const char *payload)
{
	static unsigned next;
	uint8_t *room = rooms[next++ % RIG_FRAMES];
	uint32_t len = payload ? (uint32_t)strlen(payload) : 0;

	rig_rx(&rig, room, rig_segment(&rig, conn, seq, ack, flags, payload, len, room), vouched);
}

static const struct tcp_hdr *sent_tcp(unsigned i)
{
	assert_true(i < rig.device.tx_count);
	return (const struct tcp_hdr *)(rig.device.tx[i].data + 34);
}

/* The frame stands on its own: lengths and checksums are right. */
static void assert_sound(unsigned i)
{
	const struct frame *f = &rig.device.tx[i];
	const struct ipv4_hdr *ip = (const struct ipv4_hdr *)(f->data + 14);
	uint32_t tcp_len = from_be16(ip->total_len) - 20u;

	assert_int_equal(f->len, 34 + tcp_len);
	assert_int_equal(checksum_of(ip, 20), 0);
	if (!(f->flags & FRAME_CSUM_OFFLOAD))
		assert_int_equal(checksum_fold(checksum_add(
					 f->data + 34, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len))),
			0xffff);
}

static void notified(uint32_t conn, uint32_t rx_head, uint32_t tx_tail, unsigned flags)
{
	struct flextoe_ntf n;

	assert_true(rig_notified(&rig, &n));
	assert_int_equal(n.type, FLEXTOE_NTF_UPDATE);
	assert_int_equal(n.update.conn, conn);
	assert_int_equal(n.update.rx_head, rx_head);
	assert_int_equal(n.update.tx_tail, tx_tail);
	assert_int_equal(n.update.flags, flags);
}

static void not_notified(void)
{
	struct flextoe_ntf n;

	assert_false(rig_notified(&rig, &n));
}

static void batch_gives_one_ack_and_one_notification(void **state)
{
	(void)state;
	in(1, 0, 0, TCP_ACK_, "abc");
	in(1, 3, 0, TCP_ACK_, "def");
	in(1, 6, 0, TCP_ACK_, "ghi");
	rig_poll(&rig);
	assert_memory_equal(rig_rx_buffer(&rig, 1), "abcdefghi", 9);
	notified(1, 9, 0, 0);
	not_notified();
	assert_int_equal(rig.device.tx_count, 1);
	assert_int_equal(from_be32(sent_tcp(0)->ack), 1000000u + 1 + 1 + 9);
	assert_sound(0);
}

static void reply_takes_the_ack_along(void **state)
{
	(void)state;
	datapath_conn(rig.dp, 0)->tcp.quick_acks = 0;
	in(0, 0, 0, TCP_ACK_ | TCP_PSH_, "question");
	rig_poll(&rig);
	assert_int_equal(rig.device.tx_count, 0); /* delayed */
	notified(0, 8, 0, 0);
	memcpy(rig_tx_buffer(&rig, 0), "answer", 6);
	rig_update(&rig, 0, 6, 8, 0);
	rig_poll(&rig);
	assert_int_equal(rig.device.tx_count, 1);
	assert_sound(0);
	assert_memory_equal(rig.device.tx[0].data + 66, "answer", 6);
	assert_int_equal(from_be32(sent_tcp(0)->ack), 1000000u + 1 + 8);
	assert_int_equal(from_be32(sent_tcp(0)->seq), 2000000u + 1);
}

static void buffers_wrap(void **state)
{
	static char block[1001];
	uint32_t sent = 0;

	(void)state;
	memset(block, 'x', 1000);
	for (unsigned i = 0; i < 200; i++) { /* 200,000 bytes through 64 KiB, which are never all consumed */
		block[0] = (char)('a' + i % 26);
		in(2, sent, 0, TCP_ACK_, block);
		rig_poll(&rig);
		assert_int_equal(rig_rx_buffer(&rig, 2)[sent & 65535u], 'a' + i % 26);
		assert_int_equal(rig_rx_buffer(&rig, 2)[(sent + 999) & 65535u], 'x');
		sent += 1000;
		rig_update(&rig, 2, 0, sent - 1, 0);
		rig_poll(&rig);
		rig_tx_clear(&rig);
	}
	assert_int_equal(counted(CNT_rx_payload_bytes), 200000);
	assert_int_equal(counted(CNT_drop_out_of_window), 0);
}

static void empty_buffers_start_over(void **state)
{
	struct flextoe_ntf n;

	(void)state;
	datapath_conn(rig.dp, 0)->tcp.quick_acks = 0;
	for (uint32_t i = 0; i < 50; i++) { /* both buffers are empty each time */
		in(0, 100 * i, 10 * i, TCP_ACK_ | TCP_PSH_, "ask");
		in(0, 100 * i + 3, 10 * i, TCP_ACK_ | TCP_PSH_,
			"012345678901234567890123456789012345678901234567890123456789012345678901234567890123"
			"4567890123456");
		rig_poll(&rig);
		assert_memory_equal(rig_rx_buffer(&rig, 0), "ask012", 6);
		assert_true(rig_notified(&rig, &n));
		assert_int_equal(n.update.rx_head, 100 * (i + 1));
		assert_int_equal(n.update.rx_origin, 100 * i);
		memcpy(rig_tx_buffer(&rig, 0), "answer 010", 10);
		rig_tx_clear(&rig);
		rig_update_origin(&rig, 0, 10 * (i + 1), 100 * (i + 1), 0, 10 * i);
		rig_poll(&rig);
		assert_int_equal(rig.device.tx_count, 1);
		assert_memory_equal(rig.device.tx[0].data + 66, "answer 010", 10);
	}
	/* an origin that comes late is only late; one that moves under bytes in flight breaks the rules */
	rig_update_origin(&rig, 0, 500, 5000, 0, 0);
	rig_poll(&rig);
	rig_update_origin(&rig, 0, 501, 5000, 0, 500);
	rig_poll(&rig);
	assert_int_equal(counted(CNT_hc_bad), 1);
}

static void super_segments_for_a_device_that_takes_them(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 40000; i++)
		rig_tx_buffer(&rig, 0)[i] = (uint8_t)i;
	datapath_conn(rig.dp, 0)->tcp.cwnd = 40000;
	rig_update(&rig, 0, 40000, 0, 0);
	rig_poll(&rig);
	assert_int_equal(rig.device.tx_count, 1);
	assert_true(rig.device.tx[0].flags & FRAME_TSO);
	assert_int_equal(rig.device.tx[0].gso_size, 1448);
	assert_int_equal(rig.device.tx[0].len, 66 + 40000);
	assert_memory_equal(rig.device.tx[0].data + 66, rig_tx_buffer(&rig, 0), 40000);
}

static void what_came_ahead_is_reported(void **state)
{
	static const uint8_t order[] = {3, 1, 5, 7};
	const uint8_t *opt;
	uint32_t v;

	(void)state;
	datapath_conn(rig.dp, 0)->tcp.flags |= TCPF_SACK;
	for (unsigned i = 0; i < sizeof(order); i++)
		in(0, order[i] * 4u, 0, TCP_ACK_, "abcd");
	in(0, 16, 0, TCP_ACK_, "abcd"); /* joins 12-16 and 20-24: the newest */
	rig_poll(&rig);
	assert_int_equal(rig.device.tx_count, 1);
	assert_sound(0);
	assert_int_equal(sent_tcp(0)->data_off, 15 << 4);
	opt = rig.device.tx[0].data + 66;
	assert_memory_equal(opt, "\1\1\5\32", 4);
	for (unsigned i = 0; i < 6; i++) {
		static const uint32_t want[] = {12, 24, 4, 8, 28, 32};

		memcpy(&v, opt + 4 + 4 * i, 4);
		assert_int_equal(from_be32(v), 1000001u + want[i]);
	}
	rig_tx_clear(&rig);
	in(0, 0, 0, TCP_ACK_, "abcd"); /* fills the first hole and leaves the others */
	rig_poll(&rig);
	assert_sound(0);
	assert_int_equal(sent_tcp(0)->data_off, 13 << 4);
	rig_tx_clear(&rig);
	in(0, 8, 0, TCP_ACK_, "abcd");
	in(0, 24, 0, TCP_ACK_, "abcd");
	rig_poll(&rig);
	assert_int_equal(sent_tcp(0)->data_off, 8 << 4);
	assert_int_equal(datapath_conn(rig.dp, 0)->tcp.rcv_nxt, 1000001u + 32);
}

static void full_device_holds_work_back_and_loses_nothing(void **state)
{
	uint32_t seen = 0;

	(void)state;
	datapath_conn(rig.dp, 0)->tcp.cwnd = 60000;
	for (unsigned i = 0; i < 60000; i++)
		rig_tx_buffer(&rig, 0)[i] = (uint8_t)(i * 7);
	rig_update(&rig, 0, 60000, 0, 0);
	rig.device.tx_limit = 3;
	for (unsigned round = 0; round < 40; round++) {
		rig_poll(&rig);
		for (unsigned i = 0; i < rig.device.tx_count; i++) {
			uint32_t seq = from_be32(sent_tcp(i)->seq) - 2000001u,
				 len = rig.device.tx[i].len - 66;

			assert_int_equal(seq, seen);
			assert_memory_equal(rig.device.tx[i].data + 66, rig_tx_buffer(&rig, 0) + seq, len);
			assert_sound(i);
			seen += len;
		}
		rig_tx_clear(&rig);
	}
	assert_int_equal(seen, 60000);
	assert_false(datapath_more(rig.dp));
	assert_true(counted(CNT_tx_device_full) > 0);
}

static void wrong_checksums_are_dropped_unless_the_device_vouches(void **state)
{
	uint32_t len;

	(void)state;
	len = rig_segment(&rig, 0, 0, 0, TCP_ACK_, "abc", 3, rooms[0]);
	rooms[0][66] ^= 1;
	rig_rx(&rig, rooms[0], len, 0);
	rig_poll(&rig);
	assert_int_equal(counted(CNT_drop_tcp_checksum), 1);
	rig_rx(&rig, rooms[0], len, FRAME_CSUM_GOOD);
	rig_poll(&rig);
	assert_int_equal(counted(CNT_rx_payload_bytes), 3);
	len = rig_segment(&rig, 0, 3, 0, TCP_ACK_, "abc", 3, rooms[0]);
	((struct ipv4_hdr *)(rooms[0] + 14))->ttl ^= 4;
	rig_rx(&rig, rooms[0], len, 0);
	rig_poll(&rig);
	assert_int_equal(counted(CNT_drop_ip_checksum), 1);
}

/* Every header byte set to every value, and every truncation, in a buffer of exactly the frame's size, so
   that the sanitizers see a read outside it. Nothing is placed outside the connection's window. */
static void mutated_frames_do_no_harm(void **state)
{
	uint8_t good[200];
	uint32_t len = rig_segment(&rig, 0, 10, 0, TCP_ACK_, "payload", 7, good);
	uint64_t drops = 0;
	uint32_t n;

	(void)state;
	for (uint32_t at = 0; at < len; at++)
		for (unsigned value = 0; value < 256; value += at < 66 ? 1 : 51)
			for (unsigned good_sum = 0; good_sum < 2; good_sum++) {
				uint8_t *f = malloc(len);

				memcpy(f, good, len);
				f[at] = (uint8_t)value;
				if (at >= 14 && at < 34 && good_sum) {
					struct ipv4_hdr *ip = (struct ipv4_hdr *)(f + 14);

					ip->checksum = 0;
					ip->checksum = checksum_of(ip, 20);
				}
				rig_rx(&rig, f, len, good_sum ? FRAME_CSUM_GOOD : 0);
				rig_poll(&rig);
				free(f);
				rig_tx_clear(&rig);
				while (datapath_exc_peek(rig.dp, &n))
					datapath_exc_done(rig.dp);
			}
	for (uint32_t cut = 0; cut < len; cut++) {
		uint8_t *f = malloc(cut ? cut : 1);

		memcpy(f, good, cut);
		rig_rx(&rig, f, cut, FRAME_CSUM_GOOD);
		rig_poll(&rig);
		free(f);
	}
	for (unsigned i = 0; i < COUNTERS; i++)
		if (counter_info[i].kind == COUNTER_DROP)
			drops += counted((enum counter)i);
	assert_true(drops > 3000);
	assert_true(counted(CNT_drop_short) > 10);
	assert_true(counted(CNT_drop_ip_fragment) > 10);
	assert_true(counted(CNT_drop_tcp_option) > 10);
	/* and the connection goes on: an ACK beyond what was sent and the like changed nothing */
	assert_int_equal(datapath_conn(rig.dp, 1)->tcp.rcv_nxt, 1000000u + 1 + 1);
}

static void strangers_go_to_the_control_plane(void **state)
{
	const struct exc_frame *e;
	uint32_t n, len;

	(void)state;
	len = rig_segment(&rig, 77, 0, 0, TCP_SYN_, NULL, 0, rooms[0]); /* no such connection */
	memset(rooms[0] + len, 0xee, 10);				/* Ethernet padding */
	rig_rx(&rig, rooms[0], len + 10, 0);
	rig_poll(&rig);
	e = datapath_exc_peek(rig.dp, &n);
	assert_non_null(e);
	assert_int_equal(e->type, EXC_FRAME);
	assert_int_equal(e->len, len);
	assert_memory_equal(e->bytes, rooms[0], len);
	datapath_exc_done(rig.dp);
	assert_null(datapath_exc_peek(rig.dp, &n));
}

/* Neither a connection nor the control plane has a port 0, whichever way the frame takes. */
static void port_zero_is_dropped(void **state)
{
	uint32_t n, len;

	(void)state;
	for (unsigned end = 0; end < 2; end++) {
		len = rig_segment(&rig, 0, 0, 0, TCP_ACK_, "x", 1, rooms[end]);
		memset(rooms[end] + 34 + 2 * end, 0, 2);
		rig_rx(&rig, rooms[end], len, FRAME_CSUM_GOOD);
	}
	rig_poll(&rig);
	assert_int_equal(counted(CNT_drop_tcp_header), 2);
	assert_null(datapath_exc_peek(rig.dp, &n));
}

static bool context_broken(void)
{
	const uint32_t *e;
	uint32_t n;
	bool broken = false;

	while ((e = datapath_exc_peek(rig.dp, &n))) {
		broken |= *e == EXC_CONTEXT_BROKEN;
		datapath_exc_done(rig.dp);
	}
	return broken;
}

static void bad_descriptors_end_their_context_and_nothing_else(void **state)
{
	struct {
		uint32_t conn, tx_head, rx_tail;
		uint16_t flags;
		bool broken;
	} t[] = {
		{0, 65536, 0, 0, false}, {0, 65537, 0, 0, true}, {0, 0, 1, 0, true}, {0, 0, 0, 0x8000, true},
		{0x3fffff, 0, 0, 0, true},			 /* beyond the table */
		{1u << FLEXTOE_CONN_INDEX_BITS, 0, 0, 0, false}, /* an old generation: only late */
		{8, 0, 0, 0, false},				 /* never opened */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		setup(state);
		rig_update(&rig, t[i].conn, t[i].tx_head, t[i].rx_tail, t[i].flags);
		rig_poll(&rig);
		assert_int_equal(context_broken(), t[i].broken);
		in(1, 0, 0, TCP_ACK_, "abc"); /* others go on, nothing crashes */
		rig_poll(&rig);
		assert_int_equal(counted(CNT_rx_payload_bytes), 3);
		teardown(state);
	}
	setup(state);
	rig.area->hc[0].type = 99;
	store_release8(&rig.area->hc[0].mark, flextoe_mark(0, FLEXTOE_HC_SLOTS));
	rig_poll(&rig);
	assert_true(context_broken());
	teardown(state);
	/* consumption that was never produced */
	setup(state);
	store_release32(&rig.area->words.ntf_consumed, 5000000);
	for (unsigned i = 0; i <= FLEXTOE_NTF_SLOTS; i++) {
		in(0, i, 0, TCP_ACK_, "a");
		rig_poll(&rig);
		rig_tx_clear(&rig);
	}
	assert_true(context_broken());
}

static void full_notification_ring_defers_and_catches_up(void **state)
{
	struct flextoe_ntf n;
	unsigned seen[6000] = {0}, total = 0;

	(void)state;
	for (uint32_t c = 0; c < 6000; c += 30) { /* 6,000 connections, 4,096 slots */
		for (uint32_t k = 0; k < 30; k++)
			in(c + k, 0, 0, TCP_ACK_, "hello");
		rig_poll(&rig);
		rig_poll(&rig);
		rig_tx_clear(&rig);
	}
	assert_true(counted(CNT_ntf_deferred) >= 6000 - FLEXTOE_NTF_SLOTS);
	in(5999, 5, 0, TCP_ACK_, " again"); /* while it waits: still one notification, the newest */
	rig_poll(&rig);
	for (unsigned round = 0; round < 10; round++) {
		while (rig_notified(&rig, &n)) {
			assert_int_equal(n.update.rx_head, n.update.conn == 5999 ? 11 : 5);
			seen[n.update.conn]++;
			total++;
		}
		rig_poll(&rig);
	}
	assert_int_equal(total, 6000);
	for (unsigned c = 0; c < 6000; c++)
		assert_int_equal(seen[c], 1);
}

static uint32_t events_of(uint32_t conn)
{
	const struct exc_conn *e;
	uint32_t n, events = 0;

	while ((e = datapath_exc_peek(rig.dp, &n))) {
		if (e->type == EXC_CONN && e->conn == conn)
			events |= e->events;
		datapath_exc_done(rig.dp);
	}
	return events;
}

static void ctl(uint32_t type, uint32_t conn, uint32_t error)
{
	struct ctl_conn w = {.type = type, .conn = conn, .error = error};

	assert_int_equal(datapath_ctl(rig.dp, &w, sizeof(w)), 0);
	rig_poll(&rig);
}

static void life_of_a_connection(void **state)
{
	(void)state;
	/* half-close by the peer, our answer, our close */
	in(0, 0, 0, TCP_ACK_ | TCP_FIN_, "bye");
	rig_poll(&rig);
	notified(0, 3, 0, FLEXTOE_NTF_FIN);
	rig_update(&rig, 0, 5, 3, 0);
	rig_poll(&rig);
	assert_int_equal(events_of(0) & ~CONN_EVENT_TIMER, 0);
	rig_update(&rig, 0, 5, 3, FLEXTOE_HC_CLOSE);
	rig_poll(&rig);
	assert_int_equal(events_of(0) & ~CONN_EVENT_TIMER, CONN_EVENT_RELEASED);
	in(0, 4, 6, TCP_ACK_, NULL);
	rig_poll(&rig);
	assert_int_equal(events_of(0), CONN_EVENT_DEAD);
	in(0, 4, 6, TCP_ACK_, NULL); /* the flow table has forgotten it */
	rig_poll(&rig);
	assert_int_equal(counted(CNT_rx_exceptions), 1);
	ctl(CTL_REMOVE, 0, 0);
	assert_int_equal(events_of(0), CONN_EVENT_REMOVED);
	rig_update(&rig, 0, 5, 3, 0); /* late */
	rig_poll(&rig);
	assert_int_equal(counted(CNT_hc_stale), 1);
}

static void remove_waits_for_the_scheduler(void **state)
{
	(void)state;
	rig.device.tx_limit = 0;
	rig_update(&rig, 3, 60000, 0, 0);
	rig_poll(&rig);
	assert_true(datapath_more(rig.dp));
	ctl(CTL_REMOVE, 3, 0);
	rig.device.tx_limit = RIG_FRAMES;
	rig_poll(&rig);
	rig_poll(&rig);
	assert_true(events_of(3) & CONN_EVENT_REMOVED);
	assert_false(datapath_more(rig.dp));
}

static void reset_tells_both_ends(void **state)
{
	(void)state;
	ctl(CTL_RESET, 2, ECONNABORTED);
	assert_int_equal(rig.device.tx_count, 1);
	assert_int_equal(sent_tcp(0)->flags, TCP_RST_ | TCP_ACK_);
	notified(2, 0, 0, FLEXTOE_NTF_ERROR);
	assert_true(events_of(2) & CONN_EVENT_DEAD);
	rig_tx_clear(&rig);
	in(1, 0, 0, TCP_RST_, NULL);
	rig_poll(&rig);
	notified(1, 0, 0, FLEXTOE_NTF_ERROR);
	assert_int_equal(rig.device.tx_count, 0);
}

static void timers_are_watched_and_let_go(void **state)
{
	(void)state;
	rig_update(&rig, 0, 100, 0, 0);
	rig_poll(&rig);
	assert_int_equal(events_of(0), CONN_EVENT_TIMER);
	rig_update(&rig, 0, 200, 0, 0);
	rig_poll(&rig);
	assert_int_equal(events_of(0), 0); /* once */
	ctl(CTL_TIMERS_OFF, 0, 0);
	assert_int_equal(events_of(0), CONN_EVENT_TIMER); /* still in flight */
	rig_tx_clear(&rig);
	rig.now_us += 300000;
	ctl(CTL_TIMEOUT, 0, 0);
	assert_int_equal(counted(CNT_retransmit_timeout), 1);
	assert_int_equal(events_of(0), CONN_EVENT_LOSS);
	assert_int_equal(rig.device.tx_count, 1);
	assert_int_equal(rig.device.tx[0].len, 66 + 200);
	in(0, 0, 200, TCP_ACK_, NULL);
	rig_poll(&rig);
	ctl(CTL_TIMERS_OFF, 0, 0);
	assert_int_equal(events_of(0), CONN_EVENT_TIMERS_IDLE);
}

static void transmit_space_is_told_when_it_matters(void **state)
{
	(void)state;
	rig_update(&rig, 0, 1000, 0, 0);
	rig_poll(&rig);
	in(0, 0, 1000, TCP_ACK_, NULL);
	rig_poll(&rig);
	not_notified();				 /* plenty is free */
	rig_update(&rig, 0, 1000 + 64536, 0, 0); /* nearly full, as the application sees it */
	datapath_conn(rig.dp, 0)->tcp.cwnd = 65536;
	rig_poll(&rig);
	rig_tx_clear(&rig);
	in(0, 0, 2000, TCP_ACK_, NULL);
	rig_poll(&rig);
	not_notified(); /* not an eighth yet */
	in(0, 0, 30000, TCP_ACK_, NULL);
	rig_poll(&rig);
	notified(0, 0, 30000, 0);
}

static void sleeping_application_is_kicked_once(void **state)
{
	(void)state;
	in(0, 0, 0, TCP_ACK_, "a");
	rig_poll(&rig);
	assert_int_equal(rig.kicks, 0);
	store_relaxed32(&rig.area->words.app_asleep, 1);
	in(0, 1, 0, TCP_ACK_, "b");
	in(1, 0, 0, TCP_ACK_, "c");
	rig_poll(&rig);
	assert_int_equal(rig.kicks, 1);
	assert_false(datapath_sleep_begin(rig.dp));
	assert_int_not_equal(load_relaxed32(&rig.area->words.engine_asleep), 0);
	datapath_sleep_end(rig.dp);
	assert_int_equal(load_relaxed32(&rig.area->words.engine_asleep), 0);
	rig_update(&rig, 0, 0, 1, 0);
	assert_true(datapath_sleep_begin(rig.dp));
	datapath_sleep_end(rig.dp);
}

static void core_is_wanted_by_who_was_woken_on_it(void **state)
{
	(void)state;
	datapath_cpu_set(rig.dp, 0);
	assert_false(datapath_core_wanted(rig.dp)); /* awake, but nobody knows where */
	store_relaxed32(&rig.area->words.app_asleep, 1);
	in(0, 0, 0, TCP_ACK_, "a");
	rig_poll(&rig);
	rig_poll(&rig); /* on the engine's own core it is woken when nothing is left to do */
	assert_int_equal(rig.kicks, 1);
	assert_true(datapath_core_wanted(rig.dp)); /* its word says asleep until it has run */
	datapath_cpu_set(rig.dp, 1);
	assert_false(datapath_core_wanted(rig.dp));
	datapath_cpu_set(rig.dp, 0);
	rig_update(&rig, 0, 0, 1, 0);
	rig_poll(&rig);
	assert_false(datapath_core_wanted(rig.dp)); /* it has run, and sleeps again */
	store_relaxed32(&rig.area->words.app_asleep, 0);
	assert_true(datapath_core_wanted(rig.dp));
}

/* A library cannot use an update that comes before the notification which names the connection. */
static void opened_is_followed_by_what_came_before_it(void **state)
{
	struct ctl_notify w = {.type = CTL_NOTIFY, .context = 0};
	struct flextoe_ntf n;

	(void)state;
	w.ntf.opened = (struct flextoe_ntf_opened){.conn = 0, .type = FLEXTOE_NTF_ACCEPT};
	in(0, 0, 0, TCP_ACK_, "early"); /* the round ended between CTL_INSTALL and CTL_NOTIFY */
	rig_poll(&rig);
	notified(0, 5, 0, 0);
	assert_int_equal(datapath_ctl(rig.dp, &w, sizeof(w)), 0);
	rig_poll(&rig);
	assert_true(rig_notified(&rig, &n));
	assert_int_equal(n.type, FLEXTOE_NTF_ACCEPT);
	notified(0, 5, 0, 0);
	w.ntf.opened.conn = 1; /* the usual case: nothing came yet */
	assert_int_equal(datapath_ctl(rig.dp, &w, sizeof(w)), 0);
	rig_poll(&rig);
	assert_true(rig_notified(&rig, &n));
	not_notified();
}

/* The control plane does not look: requests wait in their ring, and a broken context is told nevertheless. */
static void full_ring_to_the_control_plane_loses_no_broken_context(void **state)
{
	uint64_t strangers = 0;

	(void)state;
	for (unsigned round = 0; round < 20000; round++) {
		for (unsigned i = 0; i < 32; i++, rig.hc_pos++) {
			struct flextoe_hc *slot = &rig.area->hc[rig.hc_pos & (FLEXTOE_HC_SLOTS - 1u)];

			if (rig.hc_pos - load_acquire32(&rig.area->words.hc_consumed) == FLEXTOE_HC_SLOTS)
				break;
			slot->endpoint = (struct flextoe_hc_endpoint){.type = FLEXTOE_HC_BIND};
			store_release8(&slot->mark, flextoe_mark(rig.hc_pos, FLEXTOE_HC_SLOTS));
		}
		rig_poll(&rig);
	}
	assert_int_equal(rig.hc_pos - load_acquire32(&rig.area->words.hc_consumed), FLEXTOE_HC_SLOTS);
	/* there is room left for the frames of others */
	for (unsigned i = 0; i < 10; i++) {
		rig_rx(&rig, rooms[i], rig_segment(&rig, 77, 0, 0, TCP_SYN_, NULL, 0, rooms[i]), 0);
		rig_poll(&rig);
	}
	strangers = counted(CNT_rx_exceptions);
	assert_int_equal(strangers, 10);
	assert_int_equal(counted(CNT_drop_exception_full), 0);
	/* until frames have filled it; then the context breaks */
	while (!counted(CNT_drop_exception_full)) {
		rig_rx(&rig, rooms[0], rig_segment(&rig, 77, 0, 0, TCP_SYN_, NULL, 0, rooms[0]), 0);
		rig_poll(&rig);
	}
	store_release32(&rig.area->words.ntf_consumed, 5000000);
	for (unsigned i = 0; i <= FLEXTOE_NTF_SLOTS; i++) {
		in(0, i, 0, TCP_ACK_, "a");
		rig_poll(&rig);
		rig_tx_clear(&rig);
	}
	assert_int_equal(counted(CNT_hc_bad), 1);
	assert_true(context_broken());
}

static void install_of_numbers_in_use_is_told_as_an_error(void **state)
{
	struct ctl_conn w = {.type = CTL_INSTALL, .conn = 4};

	(void)state;
	*datapath_conn(rig.dp, 4) = *datapath_conn(rig.dp, 3);
	datapath_conn(rig.dp, 4)->host.flags = 0;
	datapath_conn(rig.dp, 4)->id.handle = 4;
	assert_int_equal(datapath_ctl(rig.dp, &w, sizeof(w)), 0);
	rig_poll(&rig);
	notified(4, 0, 0, FLEXTOE_NTF_ERROR);
	assert_int_equal(events_of(4), CONN_EVENT_DEAD);
	in(3, 0, 0, TCP_ACK_, "abc"); /* the first owner goes on */
	rig_poll(&rig);
	notified(3, 3, 0, 0);
	ctl(CTL_REMOVE, 4, 0);
	assert_int_equal(events_of(4), CONN_EVENT_REMOVED);
	in(3, 3, 0, TCP_ACK_, "abc");
	rig_poll(&rig);
	notified(3, 6, 0, 0);
}

/* A link with an MTU beyond what the device segments: frames of one segment each, as without offload. */
static void segments_longer_than_super_segments_are_sent_whole(void **state)
{
	struct tcp_state *t = &datapath_conn(rig.dp, 0)->tcp;

	(void)state;
	t->mss = 65483;
	t->cwnd = t->snd_wnd = 1000000;
	rig_update(&rig, 0, 65536, 0, 0);
	rig_poll(&rig);
	assert_int_equal(rig.device.tx_count, 2);
	assert_int_equal(rig.device.tx[0].len, 66 + 65483);
	assert_false(rig.device.tx[0].flags & FRAME_TSO);
	assert_int_equal(rig.device.tx[1].len, 66 + 53);
}

int main(void)
{
#define T(name, set) cmocka_unit_test_setup_teardown(name, set, teardown)
	const struct CMUnitTest tests[] = {
		T(batch_gives_one_ack_and_one_notification, setup),
		T(batch_gives_one_ack_and_one_notification, setup_offloads),
		T(reply_takes_the_ack_along, setup),
		T(buffers_wrap, setup),
		T(empty_buffers_start_over, setup),
		T(super_segments_for_a_device_that_takes_them, setup_offloads),
		T(segments_longer_than_super_segments_are_sent_whole, setup_offloads),
		T(what_came_ahead_is_reported, setup),
		T(what_came_ahead_is_reported, setup_offloads),
		T(full_device_holds_work_back_and_loses_nothing, setup),
		T(wrong_checksums_are_dropped_unless_the_device_vouches, setup),
		T(mutated_frames_do_no_harm, setup),
		T(strangers_go_to_the_control_plane, setup),
		T(port_zero_is_dropped, setup),
		cmocka_unit_test_teardown(bad_descriptors_end_their_context_and_nothing_else, teardown),
		T(full_notification_ring_defers_and_catches_up, setup_many),
		T(life_of_a_connection, setup),
		T(remove_waits_for_the_scheduler, setup),
		T(reset_tells_both_ends, setup),
		T(timers_are_watched_and_let_go, setup),
		T(transmit_space_is_told_when_it_matters, setup),
		T(sleeping_application_is_kicked_once, setup),
		T(core_is_wanted_by_who_was_woken_on_it, setup),
		T(opened_is_followed_by_what_came_before_it, setup),
		T(full_ring_to_the_control_plane_loses_no_broken_context, setup),
		T(install_of_numbers_in_use_is_told_as_an_error, setup),
	};

	int failed = cmocka_run_group_tests_name("frames to be verified", tests, NULL, NULL);

	vouched = FRAME_CSUM_GOOD;
	return failed + cmocka_run_group_tests_name("frames vouched for", tests, NULL, NULL);
}
