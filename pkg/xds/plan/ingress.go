package plan

import (
	"fmt"
	"time"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

const (
	// farConnectTimeout bounds the attempt to reach what may be in another zone, with the TLS handshake: a zone
	// that is dead must be left soon.
	farConnectTimeout = time.Second
	// doorConnectTimeout leaves an ingress time for a second attempt while the caller waits for the first.
	doorConnectTimeout = 400 * time.Millisecond
	// farAttempts is how often a connection, or a request that did not arrive, is tried where no Retry says it.
	farAttempts = 3
)

// Ingress lets callers from other zones in. It reads nothing but the server name that they ask for, and passes
// the connection on: TLS ends at the other proxy.
type Ingress struct {
	Listener
	// Clusters that it leads to; their names are the server names.
	Clusters []string
	Sources  []Source
	Memo     index.Memo
}

// door is one way in, and the endpoints that it leads to.
type door struct {
	cluster *Cluster
	group   *index.Group
}

// ingress plans the listener of an ingress, and its clusters.
func (o *own) ingress(p *index.Proxy) {
	n := p.Spec.GetNetworking()
	if len(n.GetInbound()) == 0 {
		o.problem("networking.inbound", "left out: an ingress needs one")
		return
	}
	port := n.GetInbound()[0].GetPort()
	if !p.Address.IsValid() || !validPort(port) {
		o.problem(fmt.Sprintf("networking.inbound[%d]", 0), "left out: the address is not known (yet)")
		return
	}
	l := &Ingress{Listener: listener("inbound", p.Address, port, false), Sources: o.sources}
	for _, d := range p.Ingress.Doors {
		c := doorCluster(d)
		l.Clusters = append(l.Clusters, c.Name)
		o.doors = append(o.doors, door{cluster: c, group: d.Group})
	}
	o.entrance = l
}

// doorCluster is what a plan has of a door. It is kept with it.
func doorCluster(d *index.Door) *Cluster {
	if c, ok := d.Memo.Load().(*Cluster); ok {
		return c
	}
	c := &Cluster{
		Name: ServerName(d.Mesh, d.Service, d.Tags), Service: d.Service, Tags: d.Tags, Discovery: DiscoverMesh,
		ConnectTimeout: doorConnectTimeout, Wary: true,
	}
	d.Memo.Store(c)
	return c
}

// far is how requests are tried again that may go to other zones.
func (r *Retry) far() *Retry {
	if r == nil {
		// What never arrived can be tried again, whatever it is.
		n := uint32(farAttempts - 1)
		r = &Retry{On: []string{"connect-failure", "refused-stream"}, Retries: &n}
	}
	r.OtherHost = true
	return r
}
