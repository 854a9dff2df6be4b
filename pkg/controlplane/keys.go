package controlplane

import (
	"crypto"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// ZoneTokenKeys finds the key of zone tokens in the global control plane's store.
type ZoneTokenKeys struct{ Log store.Log }

// PublicKey implements auth.Keys.
func (k ZoneTokenKeys) PublicKey(kid string) (crypto.PublicKey, bool) {
	o, ok := k.Log.View().Get(resource.Key{Kind: resource.KindGlobalSecret, Name: "zone-token-signing-key"})
	if !ok {
		return nil, false
	}
	s, err := resource.Decode[systemv1.Secret](o)
	if err != nil {
		return nil, false
	}
	key, err := auth.ParseSigningKey(s.GetData().GetValue())
	if err != nil || key.ID != kid {
		return nil, false
	}
	return key.Signer.Public(), true
}

// DataplaneTokenKeys finds the public halves of one mesh's dataplane token keys.
func DataplaneTokenKeys(log store.Log) func(mesh string) auth.Keys {
	return func(mesh string) auth.Keys { return meshKeys{log, mesh} }
}

type meshKeys struct {
	log  store.Log
	mesh string
}

// PublicKey implements auth.Keys.
func (k meshKeys) PublicKey(kid string) (crypto.PublicKey, bool) {
	o, ok := k.log.View().Get(resource.Key{Kind: resource.KindPublicKey, Scope: k.mesh, Name: kid})
	if !ok {
		return nil, false
	}
	p, err := resource.Decode[systemv1.PublicKey](o)
	if err != nil || p.GetUse() != "dataplane" {
		return nil, false
	}
	id, key, err := auth.ParsePublicKey(p.GetDer())
	return key, err == nil && id == kid
}
