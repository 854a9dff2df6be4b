package xdstest

import (
	"maps"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// user is who names a secret.
type user struct{ typeURL, name string }

// keyring is what a proxy knows of secrets.
type keyring struct {
	// users are the secrets that each cluster and listener names.
	users map[user][]string
	// cold are the names that are asked for and not yet answered.
	cold map[string]bool
	has  map[string]*tlsv3.Secret
}

func newKeyring() keyring {
	return keyring{users: map[user][]string{}, cold: map[string]bool{}, has: map[string]*tlsv3.Secret{}}
}

func (k keyring) clone() keyring {
	return keyring{users: maps.Clone(k.users), cold: maps.Clone(k.cold), has: maps.Clone(k.has)}
}

// needed are the names that anybody names.
func (k keyring) needed() map[string]bool {
	names := map[string]bool{}
	for _, list := range k.users {
		for _, n := range list {
			names[n] = true
		}
	}
	return names
}

// warming says whether a cluster waits for a secret.
func (k keyring) warming() bool {
	for u, list := range k.users {
		if u.typeURL == resourcev3.ClusterType && slices.ContainsFunc(list, func(n string) bool { return k.cold[n] }) {
			return true
		}
	}
	return false
}

// take notes what came of any type.
func (k keyring) take(typeURL string, items []*discoveryv3.Resource, removed []string) {
	for _, item := range items {
		switch typeURL {
		case resourcev3.ClusterType, resourcev3.ListenerType:
			k.users[user{typeURL, item.GetName()}] = secretsOf(item)
		case resourcev3.SecretType:
			s := &tlsv3.Secret{}
			if err := item.GetResource().UnmarshalTo(s); err == nil {
				k.has[item.GetName()] = s
			}
			delete(k.cold, item.GetName())
		}
	}
	for _, name := range removed {
		delete(k.users, user{typeURL, name})
		if typeURL == resourcev3.SecretType { // Envoy goes on without it, or with the one that it has
			delete(k.cold, name)
		}
	}
}

// secretsOf are the secrets that a cluster or a listener names.
func secretsOf(r *discoveryv3.Resource) []string {
	var sockets []*corev3.TransportSocket
	var c clusterv3.Cluster
	var l listenerv3.Listener
	switch {
	case r.GetResource().UnmarshalTo(&c) == nil:
		sockets = append(sockets, c.GetTransportSocket())
	case r.GetResource().UnmarshalTo(&l) == nil:
		for _, chain := range append(slices.Clone(l.GetFilterChains()), l.GetDefaultFilterChain()) {
			sockets = append(sockets, chain.GetTransportSocket())
		}
	}
	var names []string
	for _, s := range sockets {
		var up tlsv3.UpstreamTlsContext
		var down tlsv3.DownstreamTlsContext
		switch {
		case s == nil:
		case s.GetTypedConfig().UnmarshalTo(&up) == nil:
			names = append(names, secretsIn(up.GetCommonTlsContext())...)
		case s.GetTypedConfig().UnmarshalTo(&down) == nil:
			names = append(names, secretsIn(down.GetCommonTlsContext())...)
		}
	}
	return names
}

func secretsIn(c *tlsv3.CommonTlsContext) []string {
	var names []string
	for _, s := range c.GetTlsCertificateSdsSecretConfigs() {
		names = append(names, s.GetName())
	}
	if s := c.GetCombinedValidationContext().GetValidationContextSdsSecretConfig(); s != nil {
		names = append(names, s.GetName())
	}
	return names
}

// Certificate is the secret of that name as the proxy has it now; nil: it has none.
func (s *State) Certificate(name string) *tlsv3.TlsCertificate {
	return s.keys.has[name].GetTlsCertificate()
}
