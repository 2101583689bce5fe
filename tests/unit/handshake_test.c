/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Opening connections as a dialogue: in() is a segment from the peer, out() the next one we send, against a
 * data path that only remembers (fake_datapath.h). The peer's port is 5000, ours 80; its sequence numbers
 * start at IRS, and `iss` is ours as seen in the SYN or SYN-ACK.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fake_datapath.h"

#define IRS    0xfffffff0u
#define SYN    TCP_SYN_
#define ACK    TCP_ACK_
#define RST    TCP_RST_
#define FIN    TCP_FIN_
#define WND    1000
#define SECOND 1000000u

static struct datapath *dp;
static struct control *ctl;
static struct control_app_info app;
static uint32_t iss, conn, endpoint;
static uint16_t local_port;
static struct segment seen; /* by out() */

/* MSS 1460, SACK permitted, timestamps 100/0, NOP, window scale 7: a Linux SYN. */
static const uint8_t linux_options[] = {2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 100, 0, 0, 0, 0, 1, 3, 3, 7};
static const uint8_t ts_options[] = {1, 1, 8, 10, 0, 0, 0, 101, 0, 0, 0, 0};

static void poll_at(uint64_t later_us)
{
	fake_now += later_us;
	control_poll(ctl, fake_now, false);
}

static struct flextoe_ntf_result result_of(uint8_t request)
{
	const struct fake_record *r = fake_take_type(dp, CTL_NOTIFY);

	assert_non_null(r);
	assert_int_equal(r->notify.ntf.type, FLEXTOE_NTF_RESULT);
	assert_int_equal(r->notify.ntf.result.request, request);
	return r->notify.ntf.result;
}

static void listen_on(uint16_t port, uint16_t backlog)
{
	struct flextoe_hc_endpoint hc = {.type = FLEXTOE_HC_BIND, .local_port = to_be16(port), .cookie = 7};

	fake_hc(dp, 0, 0, &hc);
	poll_at(0);
	endpoint = result_of(FLEXTOE_HC_BIND).endpoint;
	hc.type = FLEXTOE_HC_LISTEN;
	hc.endpoint = endpoint;
	hc.backlog = backlog;
	fake_hc(dp, 0, 0, &hc);
	poll_at(0);
	assert_int_equal(result_of(FLEXTOE_HC_LISTEN).error, 0);
}

static int setup(void **state)
{
	struct control_config config;
	uint64_t area;
	uint32_t number;
	int wake;
	char err[256];

	(void)state;
	dp = fake_create();
	config = fake_config(dp);
	assert_int_equal(control_create(&config, &ctl, err), 0);
	control_poll(ctl, fake_now, false);
	assert_int_equal(control_app_open(ctl, "test", &app), 0);
	assert_int_equal(control_context_open(ctl, app.app, &number, &area, &wake), 0);
	fake_clear(dp);
	local_port = 80;
	listen_on(80, 4);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	control_destroy(ctl);
	fake_destroy(dp);
	return 0;
}

static void in_full(struct fake_segment s)
{
	if (!s.src_port)
		s.src_port = 5000;
	s.dst_port = local_port;
	fake_segment(dp, &s);
	poll_at(0);
}
#define in(...) in_full((struct fake_segment){.wnd = WND, __VA_ARGS__})

/* The next frame we send has these control bits, sequence number and acknowledgement. */
static void out(uint8_t ctl_bits, uint32_t seq, uint32_t ack)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_true(fake_parse(r, &seen));
	assert_int_equal(seen.ctl, ctl_bits);
	assert_int_equal(seen.seq, seq);
	assert_int_equal(seen.ack, ack);
	assert_memory_equal(r->frame.bytes, peer_mac, 6);
	assert_memory_equal(r->frame.bytes + 6, our_mac, 6);
}

static void out_synack(void)
{
	assert_true(fake_parse(fake_take(dp), &seen));
	assert_int_equal(seen.ctl, SYN | ACK);
	assert_int_equal(seen.ack, IRS + 1u);
	iss = seen.seq;
}

static void nothing(void)
{
	assert_null(fake_take(dp));
}

static const struct conn_setup *installed(uint32_t flags)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_int_equal(r->type, CTL_INSTALL);
	assert_int_equal(r->conn.flags, flags);
	conn = r->conn.conn;
	return fake_setup(dp, conn);
}

static struct flextoe_ntf_opened opened(uint8_t type)
{
	const struct fake_record *r = fake_take(dp);

	assert_non_null(r);
	assert_int_equal(r->type, CTL_NOTIFY);
	assert_int_equal(r->notify.ntf.type, type);
	return r->notify.ntf.opened;
}

static void passive_open(void **state)
{
	const struct conn_setup *s;
	struct flextoe_ntf_opened ntf;

	(void)state;
	in(.ctl = SYN, .seq = IRS, .options = linux_options, .options_len = sizeof(linux_options));
	out_synack();
	assert_int_equal(seen.options.mss, 1460);
	assert_true(seen.options.has_wscale && seen.options.sack_permitted && seen.options.has_timestamps);
	assert_int_equal(seen.options.wscale, 2); /* 65535 << 1 < 128 KiB */
	assert_int_equal(seen.options.tsecr, 100);
	assert_int_equal(seen.wnd, 65535);
	fake_now += 300;
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .options = ts_options,
		.options_len = sizeof(ts_options));
	s = installed(0);
	assert_int_equal(s->iss, iss);
	assert_int_equal(s->irs, IRS);
	assert_int_equal(s->snd_wnd, WND << 7);
	assert_int_equal(s->snd_wscale, 7);
	assert_int_equal(s->rcv_wscale, 2);
	assert_int_equal(s->peer_mss, 1460);
	assert_int_equal(s->ts_recent, 101);
	assert_true(s->timestamps && s->sack);
	assert_in_range(s->srtt_us, 300, 302);
	ntf = opened(FLEXTOE_NTF_ACCEPT);
	assert_int_equal(ntf.cookie, 7);
	assert_int_equal(ntf.conn, s->handle);
	assert_int_equal(ntf.remote_port, to_be16(5000));
	assert_int_equal(ntf.rx_shift, 17);
	nothing();
}

static void bare_syn_gets_no_options_back(void **state)
{
	(void)state;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	assert_false(seen.options.has_wscale || seen.options.sack_permitted || seen.options.has_timestamps);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	assert_int_equal(installed(0)->peer_mss, 536);
}

static void data_with_the_last_ack_is_injected_after_install(void **state)
{
	const struct fake_record *r;

	(void)state;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .payload = "hello");
	installed(0);
	opened(FLEXTOE_NTF_ACCEPT);
	r = fake_take(dp);
	assert_int_equal(r->type, CTL_INJECT);
	in(.ctl = ACK, .seq = IRS + 6u, .ack = iss + 1u,
		.payload = "more"); /* before the data path knew it */
	r = fake_take(dp);
	assert_int_equal(r->type, CTL_INJECT);
}

static void synack_is_sent_again_and_given_up(void **state)
{
	uint64_t rto = SECOND;

	(void)state;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	for (int i = 0; i < 5; i++, rto *= 2) {
		poll_at(rto - 2000);
		nothing();
		poll_at(3000);
		out_synack();
	}
	poll_at(rto + 2000);
	nothing();
	assert_int_equal(ctl->handshakes_used, 0);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	out(RST, iss + 1u, 0);
}

static void repeated_syn_gets_the_same_synack(void **state)
{
	uint32_t first;

	(void)state;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	first = iss;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	assert_int_equal(iss, first);
	assert_int_equal(ctl->handshakes_used, 1);
}

static void syn_received_checks(void **state)
{
	(void)state;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 2u); /* acknowledges what was not sent */
	out(RST, iss + 2u, 0);
	in(.ctl = RST, .seq = IRS + 100u); /* in the window, but not exact */
	out(ACK, iss + 1u, IRS + 1u);
	in(.ctl = RST, .seq = IRS - 100u); /* outside */
	nothing();
	in(.ctl = ACK, .seq = IRS + 70000u, .ack = iss + 1u);
	out(ACK, iss + 1u, IRS + 1u);
	in(.ctl = SYN, .seq = IRS + 7u);
	out(ACK, iss + 1u, IRS + 1u);
	in(.ctl = 0, .seq = IRS + 1u);
	nothing();
	assert_int_equal(ctl->handshakes_used, 1);
	in(.ctl = RST, .seq = IRS + 1u);
	nothing();
	assert_int_equal(ctl->handshakes_used, 0);
}

static void closed_port(void **state)
{
	(void)state;
	local_port = 81;
	in(.ctl = SYN, .seq = IRS);
	out(RST | ACK, 0, IRS + 1u);
	in(.ctl = ACK, .seq = IRS, .ack = 77);
	out(RST, 77, 0);
	in(.ctl = ACK | FIN, .seq = IRS, .ack = 77);
	out(RST, 77, 0);
	in(.ctl = RST, .seq = IRS);
	nothing();
	in(.ctl = FIN, .seq = IRS, .payload = "abc");
	out(RST | ACK, 0, IRS + 4u);
}

static void senseless_segments_to_a_listener(void **state)
{
	(void)state;
	in(.ctl = SYN | FIN, .seq = IRS);
	nothing();
	in(.ctl = SYN | RST, .seq = IRS);
	nothing();
	in(.ctl = 0, .seq = IRS);
	nothing();
	in(.ctl = FIN, .seq = IRS);
	nothing();
	in(.ctl = SYN, .seq = IRS, .src = to_be32(0xe0000001u)); /* from a multicast address */
	nothing();
	in(.ctl = SYN, .seq = IRS, .src = OUR_IP); /* land */
	nothing();
	assert_int_equal(control_counters(ctl)[CNT_drop_land], 1);
	in(.ctl = SYN, .seq = IRS, .dst = to_be32(0x0a090063u));
	nothing();
	assert_int_equal(ctl->handshakes_used, 0);
}

static void hostile_options(void **state)
{
	static const uint8_t cases[][8] = {
		{2, 0, 5, 180, 3, 3, 7, 0}, /* length 0 */
		{2, 1, 5, 180, 3, 3, 7, 0},
		{1, 1, 1, 1, 1, 1, 1, 2}, /* kind without length */
		{1, 1, 1, 1, 1, 1, 2, 4}, /* reaches beyond */
		{8, 10, 0, 0, 0, 0, 0, 0},
		{3, 3, 255, 2, 4, 0, 0, 0}, /* scale too large, MSS 0 */
		{254, 255, 0, 0, 0, 0, 0, 0},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		in(.ctl = SYN, .seq = IRS, .options = cases[i], .options_len = 8);
		out_synack();
		assert_false(seen.options.has_timestamps);
		in(.ctl = RST, .seq = IRS + 1u);
	}
	in(.ctl = SYN, .seq = IRS, .options = cases[5], .options_len = 8);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	assert_int_equal(installed(0)->snd_wscale, 14);
	assert_in_range(fake_setup(dp, conn)->peer_mss, 64, 536);
}

static void fill_backlog(uint32_t sent[4])
{
	for (uint16_t i = 0; i < 4; i++) {
		in(.ctl = SYN, .seq = IRS, .src_port = (uint16_t)(6000 + i));
		out_synack();
		sent[i] = iss;
	}
}

/* The same, and nobody answers: the SYN-ACKs have been repeated. */
static void flood(uint32_t sent[4])
{
	fill_backlog(sent);
	poll_at(SECOND + 2000);
	fake_clear(dp);
}

/* Clients that come at once are not a flood: what does not fit comes again, and is not told that it is in. */
static void a_burst_gets_no_cookie(void **state)
{
	uint32_t sent[4];

	(void)state;
	fill_backlog(sent);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	nothing();
	assert_int_equal(control_counters(ctl)[CNT_drop_syn_backlog], 1);
	assert_int_equal(control_counters(ctl)[CNT_syn_cookies_sent], 0);
}

static void a_full_queue_drops_syns(void **state)
{
	uint32_t sent[4];

	(void)state;
	fill_backlog(sent);
	for (uint16_t i = 0; i < 4; i++) {
		in(.ctl = ACK, .seq = IRS + 1u, .ack = sent[i] + 1u, .src_port = (uint16_t)(6000 + i));
		installed(0);
		opened(FLEXTOE_NTF_ACCEPT);
	}
	in(.ctl = SYN, .seq = IRS, .src_port = 6004); /* full of connections nobody accepted */
	nothing();
	assert_int_equal(control_counters(ctl)[CNT_drop_syn_backlog], 1);
	fake_event(dp, conn, CONN_EVENT_ACCEPTED);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	out_synack();
}

/* RFC 4987 3.6: the flood takes the places, and a peer that comes later gets in all the same, with its
 * options. */
static void a_cookie_when_handshakes_fill_the_backlog(void **state)
{
	uint8_t ack_options[sizeof(ts_options)];
	const struct conn_setup *s;
	uint32_t sent[4], now;

	(void)state;
	poll_at(9u * COOKIE_PERIOD_US - fake_now % COOKIE_PERIOD_US -
		7777777u); /* shortly before a period's end */
	flood(sent);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004, .options = linux_options,
		.options_len = sizeof(linux_options));
	out_synack();
	assert_int_equal(ctl->handshakes_used, 4);
	assert_int_equal(control_counters(ctl)[CNT_syn_cookies_sent], 1);
	assert_true(seen.options.has_wscale && seen.options.sack_permitted && seen.options.has_timestamps);
	assert_int_equal(seen.options.tsecr, 100);
	now = (uint32_t)(ctl->now_us / 1000u);
	assert_in_range(now - seen.options.tsval, 0, 63);

	memcpy(ack_options, ts_options, sizeof(ts_options));
	for (int i = 0; i < 4; i++)
		ack_options[8 + i] = (uint8_t)(seen.options.tsval >> (24 - 8 * i));
	poll_at(70 * SECOND); /* into the next one; the flood has been given up meanwhile */
	fake_clear(dp);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004, .options = ack_options,
		.options_len = sizeof(ack_options), .payload = "hello");
	s = installed(0);
	assert_int_equal(s->iss, iss);
	assert_int_equal(s->irs, IRS);
	assert_int_equal(s->snd_wnd, WND << 7);
	assert_int_equal(s->snd_wscale, 7);
	assert_int_equal(s->rcv_wscale, 2);
	assert_int_equal(s->peer_mss, 1460);
	assert_int_equal(s->ts_recent, 101);
	assert_int_equal(s->srtt_us, 0);
	assert_true(s->timestamps && s->sack);
	opened(FLEXTOE_NTF_ACCEPT);
	assert_int_equal(fake_take(dp)->type, CTL_INJECT);
	assert_int_equal(control_counters(ctl)[CNT_syn_cookies_good], 1);
	nothing();
}

static void a_cookie_without_timestamps_promises_little(void **state)
{
	const struct conn_setup *s;
	uint32_t sent[4];

	(void)state;
	flood(sent);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004,
		.options = (const uint8_t[]){2, 4, 2, 24, 3, 3, 7, 1, 4, 2, 1, 1},
		.options_len = 12); /* MSS 536, window scale, SACK */
	out_synack();
	assert_false(seen.options.has_wscale || seen.options.sack_permitted || seen.options.has_timestamps);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004,
		.options = (const uint8_t[]){3, 3, 7, 1, 4, 2, 1, 1}, .options_len = 8); /* not here */
	s = installed(0);
	assert_int_equal(s->peer_mss, 536);
	assert_int_equal(s->snd_wnd, WND);
	assert_int_equal(s->snd_wscale + s->rcv_wscale + s->timestamps + s->sack, 0);
}

static void what_is_no_cookie(void **state)
{
	uint32_t sent[4], hits = 0, resets = 0;

	(void)state;
	in(.ctl = ACK, .seq = IRS + 1u, .ack = 1, .src_port = 6004); /* none was given out */
	out(RST, 1, 0);
	flood(sent);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6005); /* another peer's */
	out(RST, iss + 1u, 0);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u + 0x40000u, .src_port = 6004);
	out(RST, iss + 1u + 0x40000u, 0);
	in(.ctl = ACK | SYN, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004);
	out(RST, iss + 1u, 0);
	/* the second segment before the first: not accepted, and not reset either */
	in(.ctl = ACK, .seq = IRS + 6u, .ack = iss + 1u, .src_port = 6004, .payload = "more");
	nothing();
	in(.ctl = RST, .seq = IRS + 1u, .src_port = 6004);
	nothing();
	/* of a connection that is over, further on in its streams: reset, whatever the numbers have in common
	 */
	for (uint32_t n = 1; n < 3000; n++) {
		in(.ctl = ACK, .seq = IRS + 6u, .ack = iss + 1u + (n < 1000 ? n : n * 8192u),
			.src_port = 6004);
		resets += fake_pending(dp);
		fake_clear(dp);
	}
	assert_in_range(resets, 2995, 2999);   /* one in 2^14 looks like the one before */
	for (uint32_t i = 0; i < 20000; i++) { /* guesses: one in 2^28 */
		in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u + i * 2654435761u + 1u, .src_port = 6004);
		fake_clear(dp);
		hits += ctl->conns_open;
	}
	assert_int_equal(hits, 0);
	poll_at(135 * SECOND); /* two periods later: too old */
	fake_clear(dp);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004);
	out(RST, iss + 1u, 0);
}

/* A live client was reset by the eviction that was here before cookies; and a SYN that comes again finds a
 * place, so that its sender, which believes the cookie, meets a handshake with another number. */
static void cookie_and_handshake_of_one_peer(void **state)
{
	uint32_t sent[4], cookie;

	(void)state;
	fill_backlog(sent);
	poll_at(SECOND + 2000); /* their ACKs are late */
	fake_clear(dp);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	out_synack();
	cookie = iss;
	in(.ctl = ACK, .seq = IRS + 1u, .ack = sent[0] + 1u, .src_port = 6000); /* late, but in */
	installed(0);
	fake_clear(dp);
	fake_event(dp, conn, CONN_EVENT_ACCEPTED);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	out_synack();
	assert_int_not_equal(iss, cookie);
	in(.ctl = ACK, .seq = IRS + 9u, .ack = cookie + 1u, .src_port = 6004, .payload = "later");
	nothing();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = cookie + 1u, .src_port = 6004);
	assert_int_equal(installed(0)->iss, cookie);
	assert_int_equal(ctl->handshakes_used, 3);
}

/* Found by the soak: the connection was reset, and its first segment came once more. */
static void a_cookie_makes_one_connection(void **state)
{
	uint32_t sent[4];

	(void)state;
	flood(sent);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004, .payload = "buy one");
	installed(0);
	fake_event(dp, conn, CONN_EVENT_ACCEPTED | CONN_EVENT_DEAD | CONN_EVENT_RELEASED);
	poll_at(0);
	fake_clear(dp);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004, .payload = "buy one");
	out(RST, iss + 1u, 0);
}

static void a_cookie_does_not_overfill_the_queue(void **state)
{
	uint32_t sent[4];

	(void)state;
	flood(sent);
	in(.ctl = SYN, .seq = IRS, .src_port = 6004);
	out_synack();
	for (uint16_t i = 0; i < 4; i++)
		in(.ctl = ACK, .seq = IRS + 1u, .ack = sent[i] + 1u, .src_port = (uint16_t)(6000 + i));
	fake_clear(dp);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004, .payload = "once");
	nothing();
	assert_int_equal(ctl->handshakes_used, 0);
	fake_event(dp, 0, CONN_EVENT_ACCEPTED);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004, .payload = "once");
	assert_int_equal(installed(0)->iss, iss);
}

static void end_of_life_frees_index_and_buffers(void **state)
{
	uint32_t handle, index;
	uint64_t used;

	(void)state;
	used = ctl->apps[0].buffers.used_bytes;
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	handle = installed(0)->handle;
	index = conn;
	fake_clear(dp);
	fake_event(dp, conn, CONN_EVENT_DEAD); /* reset by the peer */
	poll_at(0);
	nothing();
	fake_event(dp, conn, CONN_EVENT_RELEASED);
	poll_at(0);
	assert_int_equal(fake_take(dp)->type, CTL_REMOVE);
	fake_event(dp, conn, CONN_EVENT_REMOVED);
	poll_at(0);
	assert_int_equal(ctl->conns_open, 0);
	assert_int_equal(ctl->apps[0].buffers.used_bytes, used);
	assert_int_equal(ctl->apps[0].conn_count, 0);
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	assert_int_not_equal(installed(0)->handle, handle);
	assert_int_equal(conn, index);
}

/* Ends a fresh connection in TIME-WAIT with our FIN and the peer's exchanged. */
static void enter_time_wait(bool timestamps)
{
	struct tcp_state *tcp;

	in(.ctl = SYN, .seq = IRS, .options = linux_options,
		.options_len = timestamps ? sizeof(linux_options) : 0);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	installed(0);
	fake_clear(dp);
	tcp = &datapath_conn(dp, conn)->tcp;
	tcp->phase = TCP_PHASE_TIME_WAIT;
	tcp->snd_max = iss + 2u;
	tcp->rcv_nxt = IRS + 2u;
	tcp->rcv_adv = IRS + 2u + 1000u;
	tcp->ts_recent = 100;
	tcp->flags = timestamps ? TCPF_TIMESTAMPS : 0;
	fake_event(dp, conn, CONN_EVENT_DEAD | CONN_EVENT_RELEASED);
	poll_at(0);
	assert_int_equal(fake_take(dp)->type, CTL_REMOVE);
	fake_event(dp, conn, CONN_EVENT_REMOVED);
	poll_at(0);
	assert_int_equal(ctl->time_wait_count, 1);
	assert_int_equal(ctl->conns_open, 0);
}

static void time_wait_answers(void **state)
{
	(void)state;
	enter_time_wait(false);
	in(.ctl = FIN | ACK, .seq = IRS + 1u, .ack = iss + 2u); /* our last ACK was lost */
	out(ACK, iss + 2u, IRS + 2u);
	assert_int_equal(seen.wnd, 1000);
	in(.ctl = RST, .seq = IRS + 2u); /* RFC 1337 */
	nothing();
	in(.ctl = ACK, .seq = IRS + 2u, .ack = iss + 2u);
	nothing();
	poll_at(59 * SECOND);
	assert_int_equal(ctl->time_wait_count, 1);
	in(.ctl = FIN | ACK, .seq = IRS + 1u, .ack = iss + 2u); /* the wait begins anew */
	out(ACK, iss + 2u, IRS + 2u);
	poll_at(59 * SECOND);
	assert_int_equal(ctl->time_wait_count, 1);
	poll_at(2 * SECOND);
	assert_int_equal(ctl->time_wait_count, 0);
	in(.ctl = FIN | ACK, .seq = IRS + 1u, .ack = iss + 2u);
	out(RST, iss + 2u, 0);
}

static void time_wait_reuse_by_sequence(void **state)
{
	uint32_t old;

	(void)state;
	enter_time_wait(false);
	old = iss;
	in(.ctl = SYN, .seq = IRS + 1u); /* an old one */
	out(ACK, iss + 2u, IRS + 2u);
	in(.ctl = SYN, .seq = IRS + 3u);
	assert_true(fake_parse(fake_take(dp), &seen));
	assert_int_equal(seen.ctl, SYN | ACK);
	assert_true(seq_gt(seen.seq, old + 2u));
	assert_int_equal(ctl->time_wait_count, 0);
}

static void time_wait_reuse_by_timestamp(void **state)
{
	uint8_t options[sizeof(linux_options)];

	(void)state;
	enter_time_wait(true);
	memcpy(options, linux_options, sizeof(options));
	options[11] = 99;
	in(.ctl = SYN, .seq = IRS + 1000u, .options = options, .options_len = sizeof(options));
	out(ACK, iss + 2u, IRS + 2u);
	assert_int_equal(seen.options.tsecr, 100);
	options[11] = 101;
	in(.ctl = SYN, .seq = IRS - 1000u, .options = options, .options_len = sizeof(options));
	assert_true(fake_parse(fake_take(dp), &seen));
	assert_int_equal(seen.ctl, SYN | ACK);
}

/* ---- active ---- */

static void arp_answer(be32 addr)
{
	struct {
		struct eth_hdr eth;
		struct arp_hdr arp;
	} __attribute__((packed)) f = {.eth.type = to_be16(ETHTYPE_ARP_),
		.arp = {.hw_type = to_be16(1),
			.proto_type = to_be16(ETHTYPE_IPV4_),
			.hw_len = 6,
			.proto_len = 4,
			.op = to_be16(2),
			.spa = addr,
			.tpa = OUR_IP}};

	memcpy(f.eth.dst, our_mac, 6);
	memcpy(f.eth.src, peer_mac, 6);
	memcpy(f.arp.sha, peer_mac, 6);
	memcpy(f.arp.tha, our_mac, 6);
	fake_frame(dp, 0, &f, sizeof(f));
	poll_at(0);
}

static void connect_to(be32 addr, uint16_t port)
{
	struct flextoe_hc_endpoint hc = {
		.type = FLEXTOE_HC_CONNECT, .remote_addr = addr, .remote_port = to_be16(port), .cookie = 9};

	fake_hc(dp, 0, 0, &hc);
	poll_at(0);
}

static void connect_peer(void)
{
	const struct fake_record *r;

	connect_to(PEER_IP, 5000);
	r = fake_take(dp);
	assert_non_null(r);
	assert_int_equal(r->type, CTL_SEND);
	assert_int_equal(r->frame.bytes[13], 6); /* ARP */
	nothing();
	arp_answer(PEER_IP);
	assert_true(fake_parse(fake_take(dp), &seen));
	assert_int_equal(seen.ctl, SYN);
	assert_true(seen.options.has_wscale && seen.options.sack_permitted && seen.options.has_timestamps);
	iss = seen.seq;
	local_port = from_be16(seen.key.remote_port); /* as the peer sees it */
}

static void active_open(void **state)
{
	const struct conn_setup *s;
	struct flextoe_ntf_opened ntf;

	(void)state;
	connect_peer();
	in(.ctl = SYN | ACK, .seq = IRS, .ack = iss + 1u, .options = linux_options,
		.options_len = sizeof(linux_options));
	s = installed(CTL_INSTALL_ACK);
	assert_int_equal(s->snd_wnd, WND); /* not scaled in a SYN */
	assert_int_equal(s->rcv_wscale, 2);
	ntf = opened(FLEXTOE_NTF_CONNECT);
	assert_int_equal(ntf.cookie, 9);
	assert_int_equal(ntf.local_port, to_be16(local_port));
	assert_int_equal(ctl->port_uses[local_port], 1);
	nothing();
	fake_event(dp, conn, CONN_EVENT_DEAD | CONN_EVENT_RELEASED);
	poll_at(0);
	assert_int_equal(ctl->port_uses[local_port], 0);
}

static void active_open_refused(void **state)
{
	(void)state;
	connect_peer();
	in(.ctl = RST, .seq = 0); /* without ACK: not for us */
	nothing();
	in(.ctl = RST | ACK, .seq = 0, .ack = iss); /* wrong ACK */
	nothing();
	in(.ctl = ACK, .seq = IRS, .ack = iss + 5u); /* half-open peer */
	out(RST, iss + 5u, 0);
	in(.ctl = RST | ACK, .seq = 0, .ack = iss + 1u);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, ECONNREFUSED);
	assert_int_equal(ctl->handshakes_used, 0);
	assert_int_equal(ctl->port_uses[local_port], 0);
}

static void active_open_times_out(void **state)
{
	uint64_t rto = SECOND;

	(void)state;
	connect_peer();
	for (int i = 0; i < 6; i++, rto *= 2) {
		poll_at(rto + 2000);
		out(SYN, iss, 0);
	}
	poll_at(rto + 2000);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, ETIMEDOUT);
}

static void simultaneous_open(void **state)
{
	(void)state;
	connect_peer();
	in(.ctl = SYN, .seq = IRS, .options = linux_options, .options_len = sizeof(linux_options));
	out(SYN | ACK, iss, IRS + 1u);
	in(.ctl = SYN | ACK, .seq = IRS, .ack = iss + 1u);
	installed(CTL_INSTALL_ACK);
	opened(FLEXTOE_NTF_CONNECT);
}

static void next_hop_does_not_answer(void **state)
{
	(void)state;
	connect_to(PEER_IP, 5000);
	for (int i = 0; i < 3; i++)
		poll_at(SECOND + 2000);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, EHOSTUNREACH);
	assert_int_equal(ctl->handshakes_used, 0);
}

static void no_route_and_bad_requests(void **state)
{
	struct flextoe_hc_endpoint hc = {
		.type = FLEXTOE_HC_CONNECT, .endpoint = 0xdeadbeef, .remote_addr = PEER_IP};

	(void)state;
	connect_to(to_be32(0xe0000001u), 5000);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, ENETUNREACH);
	fake_hc(dp, 0, 0, &hc);
	poll_at(0);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, EINVAL);
	fake_hc(dp, 3, 0, &hc); /* not its context */
	fake_hc(dp, 60000, 0, &hc);
	fake_hc(dp, 0, 60000, &hc);
	poll_at(0);
	nothing();
}

static void icmp_ends_an_attempt(void **state)
{
	uint8_t f[14 + 20 + 8 + 20 + 20] = {0}; /* 8 bytes of the TCP header are sent */
	struct ipv4_hdr *ip = (void *)(f + 14), *quoted = (void *)(f + 42);
	struct tcp_hdr *tcp = (void *)(f + 62);

	(void)state;
	connect_peer();
	memcpy(f, our_mac, 6);
	memcpy(f + 6, peer_mac, 6);
	f[12] = 8;
	*ip = (struct ipv4_hdr){
		.version_ihl = 0x45, .total_len = to_be16(56), .protocol = 1, .src = PEER_IP, .dst = OUR_IP};
	f[34] = 3;
	f[35] = 1;
	*quoted = (struct ipv4_hdr){.version_ihl = 0x45, .protocol = 6, .src = OUR_IP, .dst = PEER_IP};
	tcp->src_port = to_be16(local_port);
	tcp->dst_port = to_be16(5000);
	for (int good = 0; good < 2; good++) {
		uint32_t sum = 0;

		tcp->seq = to_be32(good ? iss : iss + 1u);
		f[36] = f[37] = 0;
		for (int i = 34; i < 70; i += 2)
			sum += (uint32_t)(f[i] << 8 | f[i + 1]);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = ~((sum & 0xffff) + (sum >> 16));
		f[36] = (uint8_t)(sum >> 8);
		f[37] = (uint8_t)sum;
		fake_frame(dp, 0, f, 70);
		poll_at(0);
		if (!good)
			nothing(); /* forged: not the number in flight */
	}
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, EHOSTUNREACH);
}

static void options_for(uint8_t what, uint32_t target, struct flextoe_hc_options options)
{
	struct exc_hc e = {.type = EXC_HC};

	options.type = FLEXTOE_HC_OPTIONS;
	options.applies_to = what;
	options.target = target;
	e.hc.options = options;
	fake_exc(dp, &e, sizeof(e));
	poll_at(0);
	nothing();
}

static void a_listeners_options_are_its_connections(void **state)
{
	const struct fake_record *r;
	const struct conn_setup *s;

	(void)state;
	options_for(FLEXTOE_OPTIONS_ENDPOINT, endpoint,
		(struct flextoe_hc_options){.tos = 0x28, .ttl = 9, .maxseg = 800, .user_timeout_ms = 5});
	in(.ctl = SYN, .seq = IRS, .options = linux_options, .options_len = sizeof(linux_options));
	r = fake_take(dp);
	assert_true(fake_parse(r, &seen));
	iss = seen.seq;
	assert_int_equal(seen.options.mss, 800);
	assert_int_equal(r->frame.bytes[15], 0x28);
	assert_int_equal(r->frame.bytes[22], 9);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .options = ts_options,
		.options_len = sizeof(ts_options));
	s = installed(0);
	assert_int_equal(s->peer_mss, 800);
	assert_int_equal(s->tos, 0x28);
	assert_int_equal(s->ttl, 9);
	assert_int_equal(ctl->conns[conn].options.user_timeout_ms, 5);
}

/* What is kept nowhere is still the listener's: its options, as for a handshake that was kept. */
static void a_cookies_connection_has_the_listeners_options(void **state)
{
	const struct fake_record *r;
	const struct conn_setup *s;
	uint32_t sent[4];

	(void)state;
	flood(sent);
	options_for(FLEXTOE_OPTIONS_ENDPOINT, endpoint,
		(struct flextoe_hc_options){.tos = 0x28, .ttl = 9, .maxseg = 800, .user_timeout_ms = 5});
	in(.ctl = SYN, .seq = IRS, .src_port = 6004, .options = linux_options,
		.options_len = sizeof(linux_options));
	r = fake_take(dp);
	assert_true(fake_parse(r, &seen));
	iss = seen.seq;
	assert_int_equal(control_counters(ctl)[CNT_syn_cookies_sent], 1);
	assert_int_equal(seen.options.mss, 800);
	assert_int_equal(r->frame.bytes[15], 0x28);
	assert_int_equal(r->frame.bytes[22], 9);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 6004);
	s = installed(0);
	assert_int_equal(s->tos, 0x28);
	assert_int_equal(s->ttl, 9);
	assert_true(s->peer_mss <= 800);
	assert_int_equal(ctl->conns[conn].options.user_timeout_ms, 5);
}

static void the_next_connect_has_its_options_alone(void **state)
{
	(void)state;
	options_for(FLEXTOE_OPTIONS_CONNECT, 0,
		(struct flextoe_hc_options){.syn_retries = 2, .maxseg = 1000, .user_timeout_ms = 60000});
	connect_peer();
	assert_int_equal(seen.options.mss, 1000);
	for (unsigned second = 1; second <= 2; second++) {
		poll_at((SECOND << (second - 1)) + 2000);
		out(SYN, iss, 0);
	}
	poll_at(4 * SECOND + 2000);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, ETIMEDOUT);
	connect_to(PEER_IP, 5000);
	assert_true(fake_parse(fake_take(dp), &seen));
	assert_int_equal(seen.options.mss, 1460);
}

static void a_connect_ends_with_the_user_timeout(void **state)
{
	(void)state;
	options_for(FLEXTOE_OPTIONS_CONNECT, 0, (struct flextoe_hc_options){.user_timeout_ms = 1500});
	connect_peer();
	poll_at(SECOND + 2000);
	out(SYN, iss, 0);
	poll_at(SECOND / 2);
	assert_int_equal(result_of(FLEXTOE_HC_CONNECT).error, ETIMEDOUT);
}

static void deferred_accept_waits_for_data(void **state)
{
	(void)state;
	options_for(FLEXTOE_OPTIONS_ENDPOINT, endpoint, (struct flextoe_hc_options){.defer_accept_s = 5});
	in(.ctl = SYN, .seq = IRS);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u);
	nothing();
	poll_at(3 * SECOND);
	nothing(); /* it has been acknowledged: not sent again */
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .payload = "GET");
	installed(0);
	opened(FLEXTOE_NTF_ACCEPT);
	assert_int_equal(fake_take(dp)->type, CTL_INJECT);
	/* and not for ever */
	in(.ctl = SYN, .seq = IRS, .src_port = 5001);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 5001);
	poll_at(SECOND + 2000);
	nothing();
	poll_at(4 * SECOND);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = iss + 1u, .src_port = 5001);
	installed(0);
}

/* RFC 3168 6.1.1: a SYN with ECE and CWR asks, a SYN-ACK with ECE alone agrees. */
static void ecn_setup(void **state)
{
	(void)state;
	in(.ctl = SYN | TCP_ECE_ | TCP_CWR_, .seq = IRS);
	out(SYN | ACK | TCP_ECE_, ctl->handshakes[0].iss, IRS + 1u);
	in(.ctl = ACK, .seq = IRS + 1u, .ack = seen.seq + 1u);
	assert_true(installed(0)->ecn);
	fake_clear(dp);
	in(.ctl = SYN | TCP_ECE_, .seq = IRS, .src_port = 5001); /* neither fish nor fowl */
	out_synack();
	ctl->config.ecn = CONTROL_ECN_OFF;
	in(.ctl = SYN | TCP_ECE_ | TCP_CWR_, .seq = IRS, .src_port = 5002);
	out_synack();
	in(.ctl = ACK, .seq = IRS + 1u, .ack = seen.seq + 1u, .src_port = 5002);
	assert_false(installed(0)->ecn);
}

static void ecn_asked_for(void **state)
{
	const uint8_t answers[] = {SYN | ACK | TCP_ECE_, SYN | ACK, SYN | ACK | TCP_ECE_ | TCP_CWR_};

	(void)state;
	ctl->config.ecn = CONTROL_ECN_ON;
	connect_to(PEER_IP, 5000);
	fake_clear(dp);
	arp_answer(PEER_IP);
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		if (i)
			connect_to(PEER_IP, 5000);
		assert_true(fake_parse(fake_take(dp), &seen));
		assert_int_equal(seen.ctl, SYN | TCP_ECE_ | TCP_CWR_);
		local_port = from_be16(seen.key.remote_port);
		in(.ctl = answers[i], .seq = IRS, .ack = seen.seq + 1u);
		assert_int_equal(installed(CTL_INSTALL_ACK)->ecn, i == 0);
		fake_clear(dp);
	}
	connect_to(PEER_IP, 5000); /* 6.1.1.1: sent again it does not ask */
	assert_true(fake_parse(fake_take(dp), &seen));
	poll_at(SECOND + 2000);
	out(SYN, seen.seq, 0);
	ctl->config.ecn = CONTROL_ECN_PASSIVE; /* DCTCP is nothing without it */
	options_for(FLEXTOE_OPTIONS_CONNECT, 0,
		(struct flextoe_hc_options){.congestion = FLEXTOE_CONGESTION_DCTCP});
	connect_to(PEER_IP, 5000);
	assert_true(fake_parse(fake_take(dp), &seen));
	assert_int_equal(seen.ctl, SYN | TCP_ECE_ | TCP_CWR_);
	local_port = from_be16(seen.key.remote_port);
	in(.ctl = SYN | ACK | TCP_ECE_, .seq = IRS, .ack = seen.seq + 1u);
	assert_true(installed(CTL_INSTALL_ACK)->accurate_ecn);
}

static void to_ourselves(void **state)
{
	const struct fake_record *r;
	struct segment syn;

	(void)state;
	connect_to(OUR_IP, 80);
	r = fake_take(dp);
	assert_true(fake_parse(r, &syn));
	assert_int_equal(r->frame.port, 1);
	assert_int_equal(syn.key.local_addr, OUR_IP);
	assert_int_equal(syn.key.remote_addr, OUR_IP);
	fake_frame(dp, 1, r->frame.bytes, r->frame.len);
	poll_at(0);
	r = fake_take(dp);
	assert_true(fake_parse(r, &seen));
	assert_int_equal(seen.ctl, SYN | ACK);
	fake_frame(dp, 1, r->frame.bytes, r->frame.len);
	poll_at(0);
	installed(CTL_INSTALL_ACK);
	opened(FLEXTOE_NTF_CONNECT);
	local_port = 80;
	in(.ctl = ACK, .seq = syn.seq + 1u, .ack = seen.seq + 1u, .src = OUR_IP,
		.src_port = from_be16(syn.key.remote_port), .port = 1);
	installed(0);
	opened(FLEXTOE_NTF_ACCEPT);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(passive_open),
		CASE(bare_syn_gets_no_options_back),
		CASE(data_with_the_last_ack_is_injected_after_install),
		CASE(synack_is_sent_again_and_given_up),
		CASE(repeated_syn_gets_the_same_synack),
		CASE(syn_received_checks),
		CASE(closed_port),
		CASE(senseless_segments_to_a_listener),
		CASE(hostile_options),
		CASE(a_full_queue_drops_syns),
		CASE(a_burst_gets_no_cookie),
		CASE(a_cookie_when_handshakes_fill_the_backlog),
		CASE(a_cookie_without_timestamps_promises_little),
		CASE(what_is_no_cookie),
		CASE(cookie_and_handshake_of_one_peer),
		CASE(a_cookie_makes_one_connection),
		CASE(a_cookies_connection_has_the_listeners_options),
		CASE(a_cookie_does_not_overfill_the_queue),
		CASE(end_of_life_frees_index_and_buffers),
		CASE(time_wait_answers),
		CASE(time_wait_reuse_by_sequence),
		CASE(time_wait_reuse_by_timestamp),
		CASE(active_open),
		CASE(active_open_refused),
		CASE(active_open_times_out),
		CASE(simultaneous_open),
		CASE(next_hop_does_not_answer),
		CASE(no_route_and_bad_requests),
		CASE(icmp_ends_an_attempt),
		CASE(a_listeners_options_are_its_connections),
		CASE(the_next_connect_has_its_options_alone),
		CASE(a_connect_ends_with_the_user_timeout),
		CASE(deferred_accept_waits_for_data),
		CASE(ecn_setup),
		CASE(ecn_asked_for),
		CASE(to_ourselves),
	};

	return cmocka_run_group_tests_name("handshake", tests, NULL, NULL);
}
