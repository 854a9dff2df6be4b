package plan

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Names of the parts that take in and pass on redirected traffic, and their addresses. Passed-on inbound
// connections come from an address of their own, by which the redirection knows to leave them alone.
var forwarding = []struct { //nolint:gochecknoglobals // never changes
	name    string
	any     netip.Addr
	from    netip.Addr
	inbound bool
	v6      bool
}{
	{"outbound:passthrough:ipv4", netip.IPv4Unspecified(), netip.Addr{}, false, false},
	{"inbound:passthrough:ipv4", netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 6}), true, false},
	{"outbound:passthrough:ipv6", netip.IPv6Unspecified(), netip.Addr{}, false, true},
	{"inbound:passthrough:ipv6", netip.IPv6Unspecified(), netip.AddrFrom16([16]byte{15: 6}), true, true},
}

// own is what a plan has of the proxy's own dataplane and mesh. It is kept with their version.
type own struct {
	sources    []Source
	identity   *Identity
	inbounds   []*Inbound
	outbounds  []ownOutbound
	forwarders []*Forwarder
	entrance   *Ingress
	doors      []door
	clusters   []*Cluster
	problems   []Problem
	last       *assembled
}

// ownOutbound is where an outbound listens.
type ownOutbound struct {
	Listener
	number int
}

func ownParts(p *index.Proxy) *own {
	if o, ok := p.Memo.Load().(*own); ok {
		return o
	}
	o := &own{sources: []Source{source(p.Object)}}
	o.identify(p)
	n := p.Spec.GetNetworking()
	if n.GetIngress() != nil {
		o.ingress(p)
	} else {
		t := n.GetTransparentProxying()
		redirected := validPort(t.GetRedirectPortInbound()) && validPort(t.GetRedirectPortOutbound())
		taken := map[netip.AddrPort]string{}
		if redirected {
			o.forward(p, t, taken)
		}
		for i, in := range n.GetInbound() {
			o.inbound(p, i, in, redirected, taken)
		}
		for i, out := range n.GetOutbound() {
			o.outbound(i, out, redirected, taken)
		}
	}
	p.Memo.Store(o)
	return o
}

func (o *own) problem(part, format string, args ...any) {
	o.problems = append(o.problems, Problem{Part: part, Text: fmt.Sprintf(format, args...), Sources: o.sources})
}

// claim says whether a listener may have its address.
func (o *own) claim(l Listener, taken map[netip.AddrPort]string) bool {
	if by, ok := taken[l.Listen]; ok {
		o.problem(l.Name, "left out: %s listens there already", by)
		return false
	}
	taken[l.Listen] = l.Name
	return true
}

func (o *own) inbound(p *index.Proxy, i int, in *meshv1.Dataplane_Networking_Inbound, redirected bool, taken map[netip.AddrPort]string) {
	field := fmt.Sprintf("networking.inbound[%d]", i)
	addr := p.Address
	if in.GetAddress() != "" {
		addr = parseIP(in.GetAddress())
	}
	workload := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if in.GetServiceAddress() != "" {
		workload = parseIP(in.GetServiceAddress())
	}
	port := in.GetServicePort()
	if port == 0 {
		port = in.GetPort()
	}
	service := in.GetTags()[index.TagService]
	switch {
	case !addr.IsValid():
		o.problem(field, "left out: the address is not known (yet)")
		return
	case !workload.IsValid() || !validPort(in.GetPort()) || !validPort(port):
		o.problem(field, "left out: not an address and port")
		return
	case service == "":
		o.problem(field, "left out: it names no service")
		return
	}
	protocol := index.ParseProtocol(in.GetTags()[index.TagProtocol])
	c := &Cluster{
		Name: "localhost:" + strconv.Itoa(int(port)), Discovery: DiscoverFixed,
		HTTP2: protocol == index.HTTP2 || protocol == index.GRPC, Protocol: protocol, ConnectTimeout: defaultConnectTimeout,
		Hosts: []index.Endpoint{{Host: workload.String(), Port: port}}, Sources: o.sources,
	}
	l := &Inbound{Listener: listener("inbound", addr, in.GetPort(), redirected), Service: service, Protocol: protocol, Cluster: c.Name, Sources: o.sources}
	if o.identity != nil {
		l.MTLS = o.identity.Mesh
		l.Sources = append(slices.Clone(o.sources), source(p.Mesh.Object))
	}
	if i := slices.IndexFunc(o.clusters, func(k *Cluster) bool { return k.Name == c.Name }); i >= 0 {
		if k := o.clusters[i]; k.Hosts[0].Host != c.Hosts[0].Host || k.HTTP2 != c.HTTP2 {
			o.problem(l.Name, "left out: another inbound means another %s", c.Name)
			return
		}
		c = nil
	}
	if !o.claim(l.Listener, taken) {
		return
	}
	l.permit(p.Permission(i), p.Mesh)
	o.inbounds = append(o.inbounds, l)
	if c != nil {
		o.clusters = append(o.clusters, c)
	}
}

func (o *own) outbound(i int, out *meshv1.Dataplane_Networking_Outbound, redirected bool, taken map[netip.AddrPort]string) {
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if out.GetAddress() != "" {
		addr = parseIP(out.GetAddress())
	}
	if !addr.IsValid() || !validPort(out.GetPort()) {
		o.problem(fmt.Sprintf("networking.outbound[%d]", i), "left out: not an address and port")
		return
	}
	if l := listener("outbound", addr, out.GetPort(), redirected); o.claim(l, taken) {
		o.outbounds = append(o.outbounds, ownOutbound{Listener: l, number: i})
	}
}

// forward plans the listeners that redirected connections arrive at, and where they go on to if no other
// listener is meant. Without passthrough, outbound ones go nowhere.
func (o *own) forward(p *index.Proxy, t *meshv1.Dataplane_Networking_TransparentProxying, taken map[netip.AddrPort]string) {
	passthrough := true
	if b := p.Mesh.Spec.GetNetworking().GetOutbound().GetPassthrough(); b != nil {
		passthrough = b.GetValue()
	}
	sources := append(slices.Clone(o.sources), source(p.Mesh.Object))
	for _, f := range forwarding {
		port := t.GetRedirectPortOutbound()
		switch {
		case f.v6 && !validPort(t.GetRedirectPortInboundV6()):
			continue
		case f.inbound && f.v6:
			port = t.GetRedirectPortInboundV6()
		case f.inbound:
			port = t.GetRedirectPortInbound()
		}
		l := Listener{Name: f.name, Listen: netip.AddrPortFrom(f.any, uint16(port))}
		if !o.claim(l, taken) {
			continue
		}
		o.forwarders = append(o.forwarders, &Forwarder{Listener: l, Inbound: f.inbound, Cluster: f.name, Sources: sources})
		if f.inbound || passthrough {
			o.clusters = append(o.clusters, &Cluster{
				Name: f.name, Discovery: DiscoverOriginal, ConnectTimeout: defaultConnectTimeout, From: f.from, Sources: sources,
			})
		}
	}
}

func listener(direction string, addr netip.Addr, port uint32, redirected bool) Listener {
	return Listener{
		Name:   direction + ":" + net.JoinHostPort(addr.String(), strconv.Itoa(int(port))),
		Listen: netip.AddrPortFrom(addr, uint16(port)), Redirected: redirected,
	}
}

// parseIP is not valid for what is no IP address.
func parseIP(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

func validPort(p uint32) bool { return p >= 1 && p <= 65535 }

// reserved says whether a service's name would take the name of a cluster that is not a service's.
func reserved(service string) bool {
	switch service {
	case "ads_cluster", "access_log_sink", "direct_access":
		return true
	}
	for _, prefix := range []string{"localhost:", "inbound:", "outbound:", "kuma:", "tracing:", "probe:"} {
		if strings.HasPrefix(service, prefix) {
			return true
		}
	}
	return false
}
