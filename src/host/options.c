/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Socket options that act in the engine, on their way there: one descriptor with all of them (struct
 * flextoe_hc_options), posted before a CONNECT or LISTEN, and at once for what is open. A socket whose
 * options nobody changed posts nothing. Called under the home lane's lock.
 */
#include "host/posix.h"

static struct flextoe_hc options_make(const struct socket *s, enum flextoe_options_for what, uint32_t target)
{
	return (struct flextoe_hc){
		.options = {
			.target = target,
			.user_timeout_ms = (uint32_t)s->user_timeout_ms,
			.keep_idle_s = (uint16_t)(s->keepalive ? s->keep_idle_s : 0),
			.keep_interval_s = (uint16_t)s->keep_interval_s,
			.linger2_s = (int16_t)(s->linger2_s > 120 ? 120
					       : s->linger2_s < 0 ? -1
								  : s->linger2_s),
			.maxseg = (uint16_t)s->maxseg,
			.defer_accept_s =
				(uint16_t)(s->defer_accept_s > UINT16_MAX ? UINT16_MAX : s->defer_accept_s),
			.keep_count = (uint8_t)s->keep_count,
			.syn_retries = (uint8_t)s->syncnt,
			.tos = (uint8_t)s->tos,
			.ttl = (uint8_t)s->ttl,
			.congestion = s->congestion,
			.applies_to = (uint8_t)what,
			.type = FLEXTOE_HC_OPTIONS,
		}};
}

static void post(
	struct socket *s, struct flextoe_context *ctx, enum flextoe_options_for what, uint32_t target)
{
	struct flextoe_hc hc = options_make(s, what, target);

	if (context_request(ctx, &hc) == 0)
		s->options_dirty = false;
}

void options_post(struct socket *s)
{
	if (s->state == SOCKET_CONNECTED && s->conn->handle != FLEXTOE_CONN_NONE)
		post(s, s->conn->ctx, FLEXTOE_OPTIONS_CONN, s->conn->handle);
	else if (s->state == SOCKET_LISTENING && s->listener)
		post(s, s->listener->ctx, FLEXTOE_OPTIONS_ENDPOINT, s->listener->endpoint);
	else
		return; /* goes before what opens it */
	context_flush(s->lane->ctx);
}

void options_before_connect(struct socket *s, struct lane *lane)
{
	if (s->options_set)
		post(s, lane->ctx, FLEXTOE_OPTIONS_CONNECT, 0);
}

void options_before_listen(struct socket *s)
{
	if (s->options_set)
		post(s, s->listener->ctx, FLEXTOE_OPTIONS_ENDPOINT, s->listener->endpoint);
}
