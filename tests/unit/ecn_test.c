/* SPDX-License-Identifier: BSD-3-Clause */
/* ECN in the data path: marks and echoes on the wire of connections 0 (RFC 3168) and 1 (RFC 8257 3.2). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "bench/rig.h"
#include "core/checksum.h"

#define ECT0 2u
#define CE   3u

static struct rig rig;
static uint8_t rooms[RIG_FRAMES][4096];
static uint32_t events;

static int setup(void **state)
{
	int rc = rig_open(&rig, 3, 16, 0);

	(void)state;
	datapath_conn(rig.dp, 0)->tcp.flags |= TCPF_ECN;
	datapath_conn(rig.dp, 1)->tcp.flags |= TCPF_ECN;
	datapath_conn(rig.dp, 1)->host.flags |= HOST_DCTCP;
	for (uint32_t i = 0; i < 3; i++)
		datapath_conn(rig.dp, i)->tcp.quick_acks = 0;
	return rc;
}

static int teardown(void **state)
{
	(void)state;
	rig_close(&rig);
	return 0;
}

static void in(uint32_t conn, uint32_t seq, uint32_t ack, uint8_t flags, const char *payload, uint8_t ecn)
{
	static unsigned next;
	uint8_t *room = rooms[next++ % RIG_FRAMES];
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(room + 14);
	uint32_t len = rig_segment(
		&rig, conn, seq, ack, flags, payload, payload ? (uint32_t)strlen(payload) : 0, room);

	ip->tos = ecn;
	ip->checksum = 0;
	ip->checksum = checksum_of(ip, 20);
	rig_rx(&rig, room, len, 0);
}

static void poll_once(void)
{
	const struct exc_conn *e;
	uint32_t len;

	rig_tx_clear(&rig);
	rig_poll(&rig);
	events = 0;
	while ((e = datapath_exc_peek(rig.dp, &len))) {
		events |= e->events & ~CONN_EVENT_TIMER;
		datapath_exc_done(rig.dp);
	}
}

/* Frame i has these ECN bits, these of ECE and CWR, and this acknowledgement (bytes); and good checksums. */
static void out(unsigned i, uint8_t ecn, uint8_t flags, uint32_t conn, uint32_t ack)
{
	const uint8_t *f = rig.device.tx[i].data;
	const struct ipv4_hdr *ip = (const struct ipv4_hdr *)(f + 14);
	const struct tcp_hdr *tcp = (const struct tcp_hdr *)(f + 34);
	uint32_t tcp_len = from_be16(ip->total_len) - 20u;

	assert_true(i < rig.device.tx_count);
	assert_int_equal(ip->tos & 3u, ecn);
	assert_int_equal(tcp->flags & (TCP_ECE_ | TCP_CWR_), flags);
	assert_int_equal(from_be32(tcp->ack), 1000000u + conn + 1u + ack);
	assert_int_equal(checksum_of(ip, 20), 0);
	assert_int_equal(
		checksum_fold(checksum_add(tcp, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len))),
		0xffff);
}

static void marks_are_echoed_until_cwr(void **state)
{
	(void)state;
	datapath_conn(rig.dp, 0)->tcp.quick_acks = 200;
	in(0, 0, 0, TCP_ACK_, "abc", ECT0);
	poll_once();
	out(0, 0, 0, 0, 3);
	in(0, 3, 0, TCP_ACK_, "abc", CE);
	poll_once();
	out(0, 0, TCP_ECE_, 0, 6); /* a pure ACK is not ECN-capable */
	assert_int_equal(datapath_counters(rig.dp)[CNT_rx_ecn_marked], 1);
	in(0, 6, 0, TCP_ACK_, "abc", ECT0);
	poll_once();
	out(0, 0, TCP_ECE_, 0, 9);
	rig_update(&rig, 0, 10, 9, 0); /* data echoes as well */
	poll_once();
	out(0, ECT0, TCP_ECE_, 0, 9);
	in(0, 9, 10, TCP_ACK_ | TCP_CWR_, "abc", ECT0);
	poll_once();
	out(0, 0, 0, 0, 12);
	in(0, 12, 10, TCP_ACK_ | TCP_CWR_, "abc", CE); /* heard, and marked again */
	poll_once();
	out(0, 0, TCP_ECE_, 0, 15);
}

static void nothing_without_negotiation(void **state)
{
	(void)state;
	datapath_conn(rig.dp, 2)->tcp.quick_acks = 200;
	in(2, 0, 0, TCP_ACK_ | TCP_ECE_, "abc", CE);
	rig_update(&rig, 2, 10, 0, 0);
	poll_once();
	out(0, 0, 0, 2, 3);
	assert_int_equal(events, 0);
}

static void echoes_are_counted_and_answered_with_cwr(void **state)
{
	struct ctl_window w = {.type = CTL_WINDOW, .conn = 0, .cwnd = 5000, .ssthresh = 5000, .cwr = true};

	(void)state;
	rig_update(&rig, 0, 2000, 0, 0);
	poll_once();
	out(0, ECT0, 0, 0, 0);
	in(0, 0, 1448, TCP_ACK_ | TCP_ECE_, NULL, 0);
	poll_once();
	assert_int_equal(events, CONN_EVENT_MARK);
	assert_int_equal(datapath_marked(rig.dp, 0), 1448);
	datapath_ctl(rig.dp, &w, sizeof(w));
	poll_once();
	assert_int_equal(datapath_conn(rig.dp, 0)->tcp.cwnd, 5000);
	in(0, 0, 1500, TCP_ACK_ | TCP_ECE_, NULL, 0);
	poll_once();
	assert_int_equal(events, 0); /* it cannot know yet */
	assert_int_equal(datapath_marked(rig.dp, 0), 1500);
	rig_update(&rig, 0, 6000, 0, 0);
	poll_once();
	out(0, ECT0, TCP_CWR_, 0, 0);
	out(1, ECT0, 0, 0, 0);
	in(0, 0, 6000, TCP_ACK_, NULL, 0);
	poll_once();
	assert_int_equal(datapath_marked(rig.dp, 0), 1500);
}

/* RFC 3168 6.1.5: whoever does not see the connection cannot slow it down. */
static void marks_from_outside_the_window_do_not_count(void **state)
{
	(void)state;
	datapath_conn(rig.dp, 0)->tcp.quick_acks = 200;
	in(0, 0, 0, TCP_ACK_, "abc", ECT0);
	poll_once();
	in(0, 0, 0, TCP_ACK_, "abc", CE); /* again */
	in(0, 1u << 30, 0, TCP_ACK_, "abc", CE);
	poll_once();
	out(0, 0, 0, 0, 3);
	assert_int_equal(datapath_counters(rig.dp)[CNT_rx_ecn_marked], 0);
	rig_update(&rig, 0, 2000, 0, 0);
	poll_once();
	in(0, 3, 1u << 30, TCP_ACK_ | TCP_ECE_, NULL, 0); /* of what was never sent */
	poll_once();
	assert_int_equal(events & CONN_EVENT_MARK, 0);
	in(0, 3, 1448, TCP_ACK_ | TCP_ECE_, NULL, 0);
	poll_once();
	assert_int_equal(events & CONN_EVENT_MARK, CONN_EVENT_MARK);
}

static void retransmissions_are_not_capable(void **state)
{
	struct ctl_conn timeout = {.type = CTL_TIMEOUT, .conn = 0};
	struct ctl_window w = {.type = CTL_WINDOW, .conn = 0, .cwr = true};

	(void)state;
	rig_update(&rig, 0, 1000, 0, 0);
	poll_once();
	out(0, ECT0, 0, 0, 0);
	rig.now_us += 400000;
	datapath_ctl(rig.dp, &w, sizeof(w));
	datapath_ctl(rig.dp, &timeout, sizeof(timeout));
	poll_once();
	assert_true(events & CONN_EVENT_LOSS);
	out(0, 0, 0, 0, 0); /* and CWR waits for new data */
}

/* RFC 8257 3.2, figure 1: an ACK tells of one kind of segments only. */
static void exact_echo_for_dctcp(void **state)
{
	(void)state;
	in(1, 0, 0, TCP_ACK_, "abc", ECT0);
	poll_once();
	assert_int_equal(rig.device.tx_count, 0); /* delayed */
	in(1, 3, 0, TCP_ACK_, "def", CE);
	poll_once();
	out(0, 0, 0, 1, 3); /* what came unmarked */
	assert_int_equal(rig.device.tx_count, 1);
	in(1, 6, 0, TCP_ACK_, "ghi", CE);
	in(1, 9, 0, TCP_ACK_, "jkl", ECT0); /* in one batch too */
	poll_once();
	out(0, 0, TCP_ECE_, 1, 9);
	datapath_conn(rig.dp, 1)->tcp.quick_acks = 1;
	in(1, 12, 0, TCP_ACK_ | TCP_CWR_, "mno", ECT0);
	poll_once();
	out(0, 0, 0, 1, 15);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(marks_are_echoed_until_cwr),
		CASE(nothing_without_negotiation),
		CASE(echoes_are_counted_and_answered_with_cwr),
		CASE(marks_from_outside_the_window_do_not_count),
		CASE(retransmissions_are_not_capable),
		CASE(exact_echo_for_dctcp),
	};

	return cmocka_run_group_tests_name("ecn", tests, NULL, NULL);
}
