package resource

import (
	"strings"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

const onlyTCP = "other values than tcp are not allowed"

func validateDataplane(_ Key, m proto.Message) Violations {
	dp, ok := m.(*meshv1.Dataplane)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	switch n := dp.GetNetworking(); {
	case n == nil:
		v.Add("networking", mustBeDefined)
	case n.GetIngress() != nil:
		checkIngress(&v, n)
	default:
		checkNetworking(&v, n)
	}
	if b := dp.GetMetrics(); b != nil {
		checkDataplaneMetrics(&v, b)
	}
	if p := dp.GetProbes(); p != nil {
		checkProbes(&v, p)
	}
	return v
}

func checkNetworking(v *Violations, n *meshv1.Dataplane_Networking) {
	switch {
	case n.GetAddress() == "":
		v.Add("networking.address", cannotBeEmpty)
	case !isHost(n.GetAddress()):
		v.Add("networking.address", mustBeIPOrDNS)
	}
	switch {
	case len(n.GetInbound()) == 0 && n.GetGateway() == nil:
		v.Add("networking", "has to contain at least one inbound interface or gateway")
	case len(n.GetInbound()) > 0 && n.GetGateway() != nil:
		v.Add("networking", "inbound cannot be defined both with gateway")
	}
	if g := n.GetGateway(); g != nil {
		const path = "networking.gateway.tags"
		checkServiceTags(v, path, g.GetTags())
		if p, ok := g.GetTags()[TagProtocol]; ok && !strings.EqualFold(p, "tcp") {
			v.Add(keyPath(path, TagProtocol), onlyTCP)
		}
	}
	for i, in := range n.GetInbound() {
		checkInbound(v, indexPath("networking.inbound", i), in, n.GetAddress())
	}
	for i, out := range n.GetOutbound() {
		checkOutbound(v, indexPath("networking.outbound", i), out)
	}
	if t := n.GetTransparentProxying(); t != nil {
		const path = "networking.transparentProxying"
		checkOptionalPort(v, path+".redirectPortInbound", t.GetRedirectPortInbound())
		checkOptionalPort(v, path+".redirectPortOutbound", t.GetRedirectPortOutbound())
		checkOptionalPort(v, path+".redirectPortInboundV6", t.GetRedirectPortInboundV6())
	}
}

func checkInbound(v *Violations, path string, in *meshv1.Dataplane_Networking_Inbound, proxy string) {
	checkPort(v, path+".port", in.GetPort())
	checkOptionalPort(v, path+".servicePort", in.GetServicePort())
	if s := in.GetServiceAddress(); s != "" {
		samePort := in.GetServicePort() == 0 || in.GetServicePort() == in.GetPort()
		switch {
		case !isIP(s):
			v.Add(path+".serviceAddress", mustBeIP)
		case samePort && (s == proxy || s == in.GetAddress()):
			// The proxy would call itself.
			v.Add(path+".serviceAddress", "serviceAddress and servicePort have to differ from address and port")
		}
	}
	if in.GetAddress() != "" && !isIP(in.GetAddress()) {
		v.Add(path+".address", mustBeIP)
	}
	checkServiceTags(v, path+".tags", in.GetTags())
	checkProtocol(v, path+".tags", in.GetTags())
	if p := in.GetServiceProbe(); p != nil {
		checkServiceProbe(v, path+".serviceProbe", p)
	}
}

func checkServiceProbe(v *Violations, path string, p *meshv1.Dataplane_Networking_Inbound_ServiceProbe) {
	checkPositive(v, path+".interval", p.GetInterval())
	checkPositive(v, path+".timeout", p.GetTimeout())
	if t := p.GetUnhealthyThreshold(); t != nil && t.GetValue() == 0 {
		v.Add(path+".unhealthyThreshold", mustBePositive+" when defined")
	}
	if t := p.GetHealthyThreshold(); t != nil && t.GetValue() == 0 {
		v.Add(path+".healthyThreshold", mustBePositive+" when defined")
	}
}

func checkOutbound(v *Violations, path string, out *meshv1.Dataplane_Networking_Outbound) {
	checkPort(v, path+".port", out.GetPort())
	if out.GetAddress() != "" && !isIP(out.GetAddress()) {
		v.Add(path+".address", mustBeIP)
	}
	tagRules{}.check(v, path+".tags", out.GetTags())
	if _, ok := out.GetTags()[TagService]; ok || out.GetService() != "" {
		return
	}
	if len(out.GetTags()) == 0 {
		// Unbracketed, as the published release has it.
		v.Add(path+"."+TagService, cannotBeEmpty)
	} else {
		v.Add(keyPath(path+".tags", TagService), missingService)
	}
}

// checkIngress looks at the entrance of a zone. Paths and omissions are the published release's, on which
// clients may rely.
func checkIngress(v *Violations, n *meshv1.Dataplane_Networking) {
	if n.GetAddress() != "" && !isHost(n.GetAddress()) {
		v.Add("networking.address", mustBeIPOrDNS)
	}
	if len(n.GetInbound()) != 1 {
		v.Add("networking", "has to contain exactly one inbound interface in the ingress mode")
	}
	if len(n.GetOutbound()) > 0 {
		v.Add("networking", "outbound cannot be defined in the ingress mode")
	}
	if n.GetGateway() != nil {
		v.Add("networking", "gateway cannot be defined in the ingress mode")
	}
	const forbidden = "cannot be defined in the ingress mode"
	for i, in := range n.GetInbound() {
		path := indexPath("networking.inbound", i)
		checkPort(v, path+".port", in.GetPort())
		if in.GetServicePort() != 0 {
			v.Add(path+".servicePort", forbidden)
		}
		if in.GetServiceAddress() != "" {
			v.Add(path+".serviceAddress", forbidden)
		}
		if in.GetAddress() != "" {
			v.Add(path+".address", forbidden)
		}
		tagRules{}.check(v, path+".tags.tags", in.GetTags())
		if p, ok := in.GetTags()[TagProtocol]; ok && !strings.EqualFold(p, "tcp") {
			v.Add(keyPath("tags", TagProtocol), onlyTCP)
		}
	}
	g := n.GetIngress()
	switch {
	case g.GetPublicAddress() == "" && g.GetPublicPort() != 0:
		v.Add("networking.ingress.publicAddress", "has to be defined together with publicPort")
	case g.GetPublicAddress() != "" && g.GetPublicPort() == 0:
		v.Add("networking.ingress.publicPort", "has to be defined together with publicAddress")
	}
	if g.GetPublicAddress() != "" && !isHost(g.GetPublicAddress()) {
		v.Add("networking.ingress.publicAddress.address", mustBeIPOrDNS)
	}
	checkOptionalPort(v, "networking.ingress.publicPort", g.GetPublicPort())
	for i, s := range g.GetAvailableServices() {
		checkServiceTags(v, indexPath("networking.ingress.availableService", i)+".tags", s.GetTags())
	}
}

func checkProbes(v *Violations, p *meshv1.Dataplane_Probes) {
	checkPort(v, "probes.port", p.GetPort())
	for i, e := range p.GetEndpoints() {
		path := indexPath("probes.endpoints", i)
		checkPort(v, path+".inboundPort", e.GetInboundPort())
		if !isRequestPath(e.GetInboundPath()) {
			v.Add(path+".inboundPath", "has to be a valid URL path")
		}
		if !isRequestPath(e.GetPath()) {
			v.Add(path+".path", "has to be a valid URL path")
		}
	}
}
