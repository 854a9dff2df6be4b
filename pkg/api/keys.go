package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// What public keys verify the tokens of.
const (
	useDataplane = "dataplane"
	useZone      = "zone"
	useUser      = "user"
)

// maxSigningKeys bounds the keys of one use that are valid at a time.
const maxSigningKeys = 32

// keyring is the signing keys of one use: the secrets <base>, <base>-2, <base>-3 and so on. Tokens that any of them
// signed hold; the one with the highest number signs.
type keyring struct {
	use, base string
	// mesh is empty but for dataplanes' keys.
	mesh string
}

func zoneKeys() keyring { return keyring{use: useZone, base: "zone-token-signing-key"} }
func userKeys() keyring { return keyring{use: useUser, base: "user-token-signing-key"} }

func dataplaneKeys(mesh string) keyring {
	return keyring{use: useDataplane, base: dataplaneKeyPrefix + mesh, mesh: mesh}
}

// keyringOf gives the keyring that a secret belongs to; false: to none.
func keyringOf(k resource.Key) (keyring, bool) {
	var rings []keyring
	switch k.Kind {
	case resource.KindSecret:
		rings = []keyring{dataplaneKeys(k.Scope)}
	case resource.KindGlobalSecret:
		rings = []keyring{zoneKeys(), userKeys()}
	}
	for _, r := range rings {
		if r.number(k.Name) > 0 {
			return r, true
		}
	}
	return keyring{}, false
}

// secret is the key of the nth secret, from 1 on.
func (r keyring) secret(n int) resource.Key {
	k := resource.Key{Kind: resource.KindGlobalSecret, Scope: r.mesh, Name: r.base}
	if r.mesh != "" {
		k.Kind = resource.KindSecret
	}
	if n > 1 {
		k.Name += "-" + strconv.Itoa(n)
	}
	return k
}

// number is the number of a secret of the ring; 0: it is none.
func (r keyring) number(name string) int {
	rest, ok := strings.CutPrefix(name, r.base)
	if !ok {
		return 0
	}
	if rest == "" {
		return 1
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	if err != nil || n < 2 || rest != "-"+strconv.Itoa(n) {
		return 0
	}
	return n
}

// public is the key of a public half.
func (r keyring) public(kid string) resource.Key {
	k := resource.Key{Kind: resource.KindGlobalPublicKey, Scope: r.mesh, Name: kid}
	if r.mesh != "" {
		k.Kind = resource.KindPublicKey
	}
	return k
}

func (r keyring) publicPut(key *auth.SigningKey) (store.Put, error) {
	spec, err := resource.Encode(&systemv1.PublicKey{Use: r.use, KeyId: key.ID, Der: key.PublicDER()})
	return store.Put{Key: r.public(key.ID), Spec: spec}, err
}

// puts writes the nth key and its public half.
func (r keyring) puts(n int, private []byte) ([]store.Put, *auth.SigningKey, error) {
	key, err := auth.ParseSigningKey(private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := secretPut(r.secret(n), private)
	if err != nil {
		return nil, nil, err
	}
	public, err := r.publicPut(key)
	return []store.Put{secret, public}, key, err
}

func (r keyring) generate() ([]byte, error) {
	if r.use == useDataplane {
		return auth.NewRSAKey()
	}
	return auth.NewES256Key()
}

func (r keyring) String() string {
	if r.mesh == "" {
		return fmt.Sprintf("%s %q", resource.KindGlobalSecret, r.base)
	}
	return fmt.Sprintf("%s %q in mesh %q", resource.KindSecret, r.base, r.mesh)
}

// signing is one secret of a keyring.
type signing struct {
	number int
	object *resource.Object
	// key is nil where the secret's bytes are none: nothing can be signed with them, nor verified.
	key *auth.SigningKey
}

// in lists the keyring's secrets, the newest first.
func (r keyring) in(v store.View) ([]signing, error) {
	var out []signing
	first := r.secret(1)
	for o := range v.Scan(store.InScope(first.Kind, first.Scope)) {
		n := r.number(o.Key.Name)
		if n == 0 {
			continue
		}
		key, err := publicHalf(o)
		if err != nil {
			return nil, err
		}
		out = append(out, signing{n, o, key})
	}
	slices.SortFunc(out, func(a, b signing) int { return cmp.Compare(b.number, a.number) })
	return out, nil
}

// signer is the newest key that can sign and was not revoked; nil, with the number of secrets, if there is none.
func (s *Service) signer(v store.View, r keyring) (*auth.SigningKey, int, error) {
	all, err := r.in(v)
	if err != nil {
		return nil, 0, err
	}
	for _, x := range all {
		if x.key == nil {
			continue
		}
		if _, revoked := v.Get(resource.Key{Kind: resource.KindRevocation, Name: x.key.ID}); !revoked {
			return x.key, len(all), nil
		}
	}
	return nil, len(all), nil
}

// moved lets public halves follow the write (now not nil) or the deletion of a signing key's secret.
func moved(v store.View, k resource.Key, old *resource.Object, now *auth.SigningKey, d *decision) error {
	r, ok := keyringOf(k)
	if !ok {
		return nil
	}
	was, err := publicHalf(old)
	if err != nil {
		return err
	}
	if was != nil && (now == nil || now.ID != was.ID) {
		others, err := r.in(v)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(others, func(x signing) bool { return x.object.Key != k && x.key != nil && x.key.ID == was.ID })
		if i < 0 {
			d.config.Deletes = append(d.config.Deletes, r.public(was.ID))
		} else {
			// Two secrets hold the same key.
			d.config.Guards = append(d.config.Guards, store.AtRevision(others[i].object.Key, others[i].object.Revision))
		}
	}
	if now == nil {
		return nil
	}
	public, err := r.publicPut(now)
	d.config.Puts = append(d.config.Puts, public)
	return err
}

func secretPut(key resource.Key, data []byte) (store.Put, error) {
	spec, err := resource.Encode(&systemv1.Secret{Data: wrapperspb.Bytes(data)})
	return store.Put{Key: key, Spec: spec}, err
}

// publicHalf is the signing key in a secret, if there is one.
func publicHalf(o *resource.Object) (*auth.SigningKey, error) {
	if o == nil {
		return nil, nil
	}
	secret, err := resource.Decode[systemv1.Secret](o)
	if err != nil {
		return nil, err
	}
	key, err := auth.ParseSigningKey(secret.GetData().GetValue())
	if err != nil {
		return nil, nil //nolint:nilerr // any bytes may stand in a secret
	}
	return key, nil
}

// EnsurePublicKeys writes the public halves that are missing beside the signing keys of zones and users, as in the
// store of an earlier build. It is for the assembly to call at the start.
func (s *Service) EnsurePublicKeys(ctx context.Context) error {
	_, _, err := s.write(ctx, titleCreate, func(config, _ store.View) (decision, error) {
		var d decision
		for _, r := range []keyring{zoneKeys(), userKeys()} {
			all, err := r.in(config)
			if err != nil {
				return d, err
			}
			for _, x := range all {
				if x.key == nil {
					continue
				}
				if _, there := config.Get(r.public(x.key.ID)); there {
					continue
				}
				public, err := r.publicPut(x.key)
				if err != nil {
					return d, err
				}
				d.config.Puts = append(d.config.Puts, public)
				d.config.Guards = append(d.config.Guards, store.AtRevision(x.object.Key, x.object.Revision))
			}
		}
		if len(d.config.Puts) == 0 {
			return d, errThere
		}
		return d, nil
	})
	if err != nil && !isThere(err) {
		return fmt.Errorf("public halves of signing keys: %w", err)
	}
	return nil
}

const (
	// forgetAfter is how long after its time a revocation is kept: clocks differ, and are set back.
	forgetAfter = 24 * time.Hour
	// maxForgotten bounds how many go with one write.
	maxForgotten = 1000
)

// forget lets revocations of what has ended long ago go with the write of another one.
func forget(config store.View, now time.Time, d *decision) error {
	for o := range config.Scan(store.OfKind(resource.KindRevocation)) {
		r, err := resource.Decode[systemv1.Revocation](o)
		if err != nil {
			return err
		}
		if e := r.GetExpires(); e != nil && e.AsTime().Add(forgetAfter).Before(now) && len(d.config.Deletes) < maxForgotten {
			d.config.Deletes = append(d.config.Deletes, o.Key)
		}
	}
	return nil
}
