package controlplane

import "github.com/meridian-mesh/meridian/pkg/kds"

// MeasureTraffic adds what the sessions between control planes have done.
func MeasureTraffic(b *Base, t *kds.Traffic) {
	b.Counter("meridian_kds_groups_total", "Groups of changes that were sent to the other control plane, and of its that were applied.", []string{"direction"}, func(give func(float64, ...string)) {
		sent, applied, _ := t.Totals()
		give(float64(sent), "sent")
		give(float64(applied), "applied")
	})
	b.Counter("meridian_kds_rejected_keys_total", "Keys of the other control plane's groups that were rejected.", nil, func(give func(float64, ...string)) {
		_, _, rejected := t.Totals()
		give(float64(rejected))
	})
}
