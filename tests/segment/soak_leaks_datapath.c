/* SPDX-License-Identifier: BSD-3-Clause */
/* What the data path must have given back when everything has ended; see soak.h. */
#include "datapath/stages.h"
#include "tests/segment/soak.h"

int leaks_datapath(struct datapath *dp, char *text, size_t size)
{
	unsigned live = 0, hashed = 0;

	for (uint32_t i = 0; i < dp->conns_max; i++) {
		live += (dp->conns[i].host.flags & HOST_LIVE) != 0;
		hashed += (dp->conns[i].host.flags & HOST_HASHED) != 0;
	}
	if (!live && !hashed && !dp->ooo.used && !datapath_more(dp))
		return 0;
	snprintf(text, size, "%u connections live, %u in the flow table, %u out-of-order entries%s", live,
		hashed, dp->ooo.used, datapath_more(dp) ? ", work left" : "");
	return -1;
}
