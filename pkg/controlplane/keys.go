package controlplane

import (
	"crypto"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// The uses of keys that verify tokens, as a PublicKey names them.
const (
	useZone      = "zone"
	useUser      = "user"
	useDataplane = "dataplane"
)

// ZoneTokenKeys finds the public halves of the keys of zone tokens.
func ZoneTokenKeys(log store.Log) auth.Keys {
	return publicKeys{log, useZone, resource.Key{Kind: resource.KindGlobalPublicKey}}
}

// UserTokenKeys finds the public halves of the keys of user tokens.
func UserTokenKeys(log store.Log) auth.Keys {
	return publicKeys{log, useUser, resource.Key{Kind: resource.KindGlobalPublicKey}}
}

// DataplaneTokenKeys finds the public halves of one mesh's dataplane token keys.
func DataplaneTokenKeys(log store.Log) func(mesh string) auth.Keys {
	return func(mesh string) auth.Keys {
		return publicKeys{log, useDataplane, resource.Key{Kind: resource.KindPublicKey, Scope: mesh}}
	}
}

// publicKeys are those of one use, in one place.
type publicKeys struct {
	log   store.Log
	use   string
	place resource.Key
}

// PublicKey implements auth.Keys.
func (k publicKeys) PublicKey(kid string) (crypto.PublicKey, bool) {
	at := k.place
	at.Name = kid
	o, ok := k.log.View().Get(at)
	if !ok {
		return nil, false
	}
	p, err := resource.Decode[systemv1.PublicKey](o)
	if err != nil || p.GetUse() != k.use {
		return nil, false
	}
	id, key, err := auth.ParsePublicKey(p.GetDer())
	return key, err == nil && id == kid
}

// LegacyTokenSecret finds the Secret from whose bytes the published release makes a mesh's dataplane tokens.
func LegacyTokenSecret(log store.Log) func(mesh string) auth.LegacySecret {
	return func(mesh string) auth.LegacySecret {
		k := resource.Key{Kind: resource.KindSecret, Scope: mesh, Name: "dataplane-token-signing-key-" + mesh}
		return auth.LegacySecret{Name: secretID(k), Bytes: func() ([]byte, bool) {
			o, ok := log.View().Get(k)
			if !ok {
				return nil, false
			}
			s, err := resource.Decode[systemv1.Secret](o)
			return s.GetData().GetValue(), err == nil
		}}
	}
}

// secretID names a Secret where credentials are followed. The slash keeps it apart from the ids of tokens and keys.
func secretID(k resource.Key) string { return k.Scope + "/" + k.Name }
