/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reports: all counters (for people, as JSON, in the Prometheus text format) and all connections (for people,
 * as JSON). Made in pieces, each of bounded work, so that a report of many connections never holds the engine
 * up; a report of connections is therefore not a snapshot. Reads the data path's state, writes none of it.
 * Control plane's thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/state.h"

#define ROWS_PER_PIECE 128u
#define SCAN_PER_PIECE 16384u

enum report_stage {
	STAGE_HEAD,
	STAGE_ENDPOINTS,
	STAGE_HANDSHAKES,
	STAGE_CONNS,
	STAGE_TIME_WAITS,
	STAGE_TAIL,
	STAGE_END
};

struct report {
	uint32_t what;
	enum report_stage stage;
	uint32_t next; /* index in the stage's array */
	uint32_t rows; /* so far, of all stages */
};

struct gauge {
	const char *name, *text;
	uint64_t value;
};
#define GAUGES 9

static void gauges_fill(const struct control *ctl, struct gauge g[GAUGES])
{
	uint64_t apps = 0, listeners = 0, contexts = 0, used = 0;

	for (uint32_t i = 0; i < ctl->apps_high; i++)
		if (ctl->apps[i].state != APP_FREE) {
			apps++;
			contexts += ctl->apps[i].context_count;
			used += ctl->apps[i].buffers.used_bytes;
		}
	for (uint32_t i = 0; i < ctl->endpoints_high; i++)
		listeners += ctl->endpoints[i].state == ENDPOINT_LISTENING;
	g[0] = (struct gauge){"uptime_seconds", "Seconds since the engine started.",
		(ctl->now_us - ctl->start_us) / 1000000u};
	g[1] = (struct gauge){"connections", "Connections in the data path.", ctl->conns_open};
	g[2] = (struct gauge){"connections_max", "Connections there is room for.", ctl->conns_max};
	g[3] = (struct gauge){"handshakes", "Connections being opened.", ctl->handshakes_used};
	g[4] = (struct gauge){"time_wait", "Entries in TIME-WAIT.", ctl->time_wait_count};
	g[5] = (struct gauge){"listeners", "Listening endpoints.", listeners};
	g[6] = (struct gauge){"applications", "Registered applications.", apps};
	g[7] = (struct gauge){"contexts", "Contexts of applications.", contexts};
	g[8] = (struct gauge){
		"buffer_bytes", "Bytes of payload buffers that connections hold (address space).", used};
}

static uint64_t counter_value(const struct control *ctl, unsigned i)
{
	return datapath_counters(ctl->dp)[i] + ctl->counters[i];
}

static void stat_text(const struct control *ctl, FILE *out)
{
	static const char *const titles[] = {
		[COUNTER_INFO] = "Counters", [COUNTER_DROP] = "Drops by reason", [COUNTER_FAULT] = "Faults"};
	static const enum counter_kind order[] = {COUNTER_INFO, COUNTER_DROP, COUNTER_FAULT};
	struct gauge g[GAUGES];

	gauges_fill(ctl, g);
	fprintf(out, "Now\n");
	for (unsigned i = 0; i < GAUGES; i++)
		fprintf(out, "%16llu  %-24s %s\n", (unsigned long long)g[i].value, g[i].name, g[i].text);
	for (unsigned k = 0; k < ARRAY_SIZE(order); k++) {
		fprintf(out, "\n%s\n", titles[order[k]]);
		for (unsigned i = 0; i < COUNTERS; i++)
			if (counter_info[i].kind == order[k])
				fprintf(out, "%16llu  %-24s %s\n", (unsigned long long)counter_value(ctl, i),
					counter_info[i].name, counter_info[i].text);
	}
}

static void json_counters(const struct control *ctl, FILE *out, const char *title, enum counter_kind kind)
{
	const char *comma = "";

	fprintf(out, ",\"%s\":{", title);
	for (unsigned i = 0; i < COUNTERS; i++)
		if (counter_info[i].kind == kind) {
			fprintf(out, "%s\"%s\":%llu", comma, counter_info[i].name,
				(unsigned long long)counter_value(ctl, i));
			comma = ",";
		}
	fputc('}', out);
}

/* What the daemon adds, in memory first: it may be nothing. */
static void extra_write(struct control *ctl, FILE *out, uint32_t what, const char *before)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f;

	if (!ctl->config.report_extra)
		return;
	f = open_memstream(&text, &len);
	if (!f)
		return;
	ctl->config.report_extra(ctl->config.report_arg, f, what);
	fclose(f);
	if (len) {
		fputs(before, out);
		fwrite(text, 1, len, out);
	}
	free(text);
}

static void stat_json(struct control *ctl, FILE *out)
{
	struct gauge g[GAUGES];

	gauges_fill(ctl, g);
	fprintf(out, "{\"version\":\"%s\",\"now\":{", FLEXTOE_VERSION);
	for (unsigned i = 0; i < GAUGES; i++)
		fprintf(out, "%s\"%s\":%llu", i ? "," : "", g[i].name, (unsigned long long)g[i].value);
	fputc('}', out);
	json_counters(ctl, out, "counters", COUNTER_INFO);
	json_counters(ctl, out, "drops", COUNTER_DROP);
	json_counters(ctl, out, "faults", COUNTER_FAULT);
	extra_write(ctl, out, FLEXTOE_STATUS_STAT_JSON, ",");
	fprintf(out, "}\n");
}

static void stat_prometheus(const struct control *ctl, FILE *out)
{
	struct gauge g[GAUGES];

	gauges_fill(ctl, g);
	for (unsigned i = 0; i < GAUGES; i++)
		fprintf(out, "# HELP flextoe_%s %s\n# TYPE flextoe_%s gauge\nflextoe_%s %llu\n", g[i].name,
			g[i].text, g[i].name, g[i].name, (unsigned long long)g[i].value);
	for (unsigned i = 0; i < COUNTERS; i++)
		fprintf(out,
			"# HELP flextoe_%s_total %s\n# TYPE flextoe_%s_total counter\nflextoe_%s_total "
			"%llu\n",
			counter_info[i].name, counter_info[i].text, counter_info[i].name,
			counter_info[i].name, (unsigned long long)counter_value(ctl, i));
}

/* ---- connections ---- */

struct row {
	const char *state;
	const struct app *app;
	struct flow_key key;
	const struct conn *conn; /* NULL: only the above and the queues are known */
	const char *congestion;
	uint32_t rx_queue, tx_queue;
};

static void address_text(char *text, size_t len, be32 addr, be16 port)
{
	char ip[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &addr, ip, sizeof(ip));
	if (port)
		snprintf(text, len, "%s:%u", addr ? ip : "*", from_be16(port));
	else
		snprintf(text, len, "%s:*", addr ? ip : "*");
}

static void row_text(FILE *out, const struct row *r)
{
	char local[32], remote[32], owner[48] = "-";

	address_text(local, sizeof(local), r->key.local_addr, r->key.local_port);
	address_text(remote, sizeof(remote), r->key.remote_addr, r->key.remote_port);
	if (r->app)
		snprintf(owner, sizeof(owner), "%s/%u", r->app->name, r->app->pid);
	fprintf(out, "%-11s %8u %8u  %-21s %-21s  %-20s", r->state, r->rx_queue, r->tx_queue, local, remote,
		owner);
	if (r->conn) {
		const struct tcp_state *t = &r->conn->tcp;

		fprintf(out, " rtt %.1f/%.1f ms %s%s cwnd %u sndwnd %u rcvwnd %u mss %u retrans %u",
			t->srtt_us / 8000.0, t->rttvar_us / 4000.0, r->congestion,
			r->conn->tcp.flags & TCPF_ECN ? " ecn" : "", t->cwnd, t->snd_wnd,
			t->rcv_adv - t->rcv_nxt, t->mss, r->conn->host.retransmits);
	}
	fputc('\n', out);
}

static void row_json(FILE *out, const struct row *r)
{
	char local[32], remote[32];

	address_text(local, sizeof(local), r->key.local_addr, r->key.local_port);
	address_text(remote, sizeof(remote), r->key.remote_addr, r->key.remote_port);
	fprintf(out, "{\"state\":\"%s\",\"local\":\"%s\",\"remote\":\"%s\",\"rx_queue\":%u,\"tx_queue\":%u",
		r->state, local, remote, r->rx_queue, r->tx_queue);
	if (r->app)
		fprintf(out, ",\"app\":\"%s\",\"pid\":%u", r->app->name, r->app->pid);
	if (r->conn) {
		const struct tcp_state *t = &r->conn->tcp;
		const struct host_state *h = &r->conn->host;

		fprintf(out,
			",\"srtt_us\":%u,\"rttvar_us\":%u,\"rto_us\":%u,\"cwnd\":%u,\"ssthresh\":%u,\"snd_"
			"wnd\":%u,"
			"\"rcv_wnd\":%u,\"congestion\":\"%s\",\"ecn\":%s,\"mss\":%u,\"retransmits\":%u,"
			"\"bytes_received\":%llu,\"bytes_"
			"acked\":%llu",
			t->srtt_us / 8u, t->rttvar_us / 4u, t->rto_us, t->cwnd, t->ssthresh, t->snd_wnd,
			t->rcv_adv - t->rcv_nxt, r->congestion, t->flags & TCPF_ECN ? "true" : "false",
			t->mss, h->retransmits, (unsigned long long)h->bytes_received,
			(unsigned long long)h->bytes_acked);
	}
	fputc('}', out);
}

static uint32_t stage_end(const struct control *ctl, enum report_stage stage)
{
	switch (stage) {
	case STAGE_ENDPOINTS:
		return ctl->endpoints_high;
	case STAGE_HANDSHAKES:
		return ctl->handshakes_high;
	case STAGE_CONNS:
		return ctl->conns_high;
	case STAGE_TIME_WAITS:
		return ctl->time_wait_high;
	default:
		return 0;
	}
}

/* Whose a listener is: its owner's or, when that has gone, one's who accepts; NULL: nobody's yet. */
static const struct app *listener_app(const struct control *ctl, const struct endpoint *ep)
{
	if (ep->app != APP_NONE)
		return &ctl->apps[ep->app];
	return ep->member_head == INDEX_NONE ? NULL : &ctl->apps[ctl->members[ep->member_head].app];
}

static bool endpoint_row(const struct control *ctl, uint32_t i, struct row *r)
{
	const struct endpoint *ep = &ctl->endpoints[i];

	if (ep->state != ENDPOINT_LISTENING)
		return false;
	*r = (struct row){.state = "LISTEN",
		.app = listener_app(ctl, ep),
		.key = {.local_addr = ep->addr, .local_port = ep->port},
		.rx_queue = ep->queued + ep->parked + ep->half_open,
		.tx_queue = ep->backlog};
	return true;
}

static bool handshake_row(const struct control *ctl, uint32_t i, struct row *r)
{
	const struct handshake *hs = &ctl->handshakes[i];

	if (hs->state == HANDSHAKE_FREE)
		return false;
	*r = (struct row){.state = hs->parked			     ? "ACCEPT-WAIT"
				   : hs->state == HANDSHAKE_SYN_SENT ? "SYN-SENT"
								     : "SYN-RECV",
		.app = hs->active ? &ctl->apps[hs->app] : listener_app(ctl, &ctl->endpoints[hs->endpoint]),
		.key = hs->flow.key};
	return true;
}

static bool conn_row(const struct control *ctl, uint32_t i, struct row *r)
{
	const struct control_conn *c = &ctl->conns[i];
	const struct conn *conn = datapath_conn(ctl->dp, i);
	const struct tcp_state *t = &conn->tcp;
	uint32_t rx, tx;

	if (!(c->flags & CTLCONN_USED))
		return false;
	rx = t->rcv_nxt - t->rx_tail - !!(t->flags & TCPF_FIN_RCVD);
	tx = t->tx_end - t->snd_una;
	*r = (struct row){.state = conn_state_name(conn),
		.app = &ctl->apps[c->app],
		.key = c->flow.key,
		.conn = conn,
		.congestion = congestion_name(ctl, &c->options),
		.rx_queue = rx > 1u << 30 ? 0 : rx,
		.tx_queue = tx > 1u << 30 ? 0 : tx};
	return true;
}

static bool time_wait_row(const struct control *ctl, uint32_t i, struct row *r)
{
	const struct time_wait *tw = &ctl->time_waits[i];

	if (!tw->used)
		return false;
	*r = (struct row){.state = "TIME-WAIT", .key = tw->flow.key};
	return true;
}

static void report_rows(const struct control *ctl, struct report *report, FILE *out)
{
	uint32_t end = stage_end(ctl, report->stage), rows = 0, scanned = 0;
	struct row r;

	for (; report->next < end && rows < ROWS_PER_PIECE && scanned < SCAN_PER_PIECE;
		report->next++, scanned++) {
		bool found = false;

		if (report->stage == STAGE_ENDPOINTS)
			found = endpoint_row(ctl, report->next, &r);
		else if (report->stage == STAGE_HANDSHAKES)
			found = handshake_row(ctl, report->next, &r);
		else if (report->stage == STAGE_CONNS)
			found = conn_row(ctl, report->next, &r);
		else if (report->stage == STAGE_TIME_WAITS)
			found = time_wait_row(ctl, report->next, &r);
		if (!found)
			continue;
		rows++;
		if (report->what == FLEXTOE_STATUS_SS_JSON) {
			if (report->rows++)
				fputc(',', out);
			row_json(out, &r);
		} else {
			report->rows++;
			row_text(out, &r);
		}
	}
	if (report->next >= end) {
		report->stage++;
		report->next = 0;
	}
}

static void report_write(struct control *ctl, struct report *report, FILE *out)
{
	bool json = report->what == FLEXTOE_STATUS_SS_JSON;

	switch (report->what) {
	case FLEXTOE_STATUS_STAT:
		stat_text(ctl, out);
		extra_write(ctl, out, report->what, "\n");
		report->stage = STAGE_END;
		return;
	case FLEXTOE_STATUS_STAT_JSON:
		stat_json(ctl, out);
		report->stage = STAGE_END;
		return;
	case FLEXTOE_STATUS_PROMETHEUS:
		stat_prometheus(ctl, out);
		extra_write(ctl, out, report->what, "");
		report->stage = STAGE_END;
		return;
	default:
		break;
	}
	switch (report->stage) {
	case STAGE_HEAD:
		if (json)
			fputs("{\"connections\":[", out);
		else
			fprintf(out, "%-11s %8s %8s  %-21s %-21s  %-20s\n", "State", "Recv-Q", "Send-Q",
				"Local", "Remote", "Application/pid");
		report->stage++;
		break;
	case STAGE_TAIL:
		if (json)
			fputs("]}\n", out);
		report->stage++;
		break;
	default:
		report_rows(ctl, report, out);
		break;
	}
}

struct report *report_begin(struct control *ctl, uint32_t what)
{
	struct report *report;

	(void)ctl;
	if (what < FLEXTOE_STATUS_STAT || what > FLEXTOE_STATUS_SS_JSON)
		return NULL;
	report = calloc(1, sizeof(*report));
	if (report)
		report->what = what;
	return report;
}

ssize_t report_piece(struct control *ctl, struct report *report, char **text)
{
	size_t len = 0;
	FILE *out;

	*text = NULL;
	while (report->stage != STAGE_END &&
		len == 0) { /* a piece may hold no row: of bounded work all the same */
		free(*text);
		*text = NULL;
		out = open_memstream(text, &len);
		if (!out)
			return -ENOMEM;
		report_write(ctl, report, out);
		if (fclose(out) != 0)
			return -ENOMEM;
	}
	return (ssize_t)len;
}

void report_end(struct report *report)
{
	free(report);
}

void control_report(struct control *ctl, FILE *out, uint32_t what)
{
	struct report *report = report_begin(ctl, what);

	while (report && report->stage != STAGE_END)
		report_write(ctl, report, out);
	report_end(report);
}
