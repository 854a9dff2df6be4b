package index

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// Authority is the CA of a mesh's enabled mTLS backend. It is immutable, and shared by all proxies of the mesh:
// when something of it changes there is another one.
type Authority struct {
	Backend string
	// Cert and Key are PEM and belong together. Without either, Problem says what is wrong with the CA: mTLS
	// is on all the same, and nobody gets a certificate.
	Cert, Key []byte
	Problem   string
	// Lifetime of the workloads' certificates.
	Lifetime time.Duration
	// Secrets that Cert and Key lie in; none where they stand in the mesh itself.
	Secrets []*resource.Object
	// Memo is for what is made of the certificate, Issuing for what issues with the key.
	Memo, Issuing Memo

	// names of the secrets that it needs, present or not.
	names []string
}

// Usable says whether it can issue certificates.
func (a *Authority) Usable() bool { return a != nil && a.Problem == "" }

// authority reads the CA of a mesh; nil: mTLS is off.
func (m *mesh) authority(spec *Mesh) *Authority {
	b := resource.EnabledCA(spec.Spec)
	if b == nil {
		if name := spec.Spec.GetMtls().GetEnabledBackend(); name != "" {
			return &Authority{Backend: name, Problem: fmt.Sprintf("the mesh has no mTLS backend %q", name)}
		}
		return nil
	}
	a := &Authority{Backend: b.GetName(), Lifetime: cmp.Or(resource.WorkloadValidity(b), ca.DefaultValidity)}
	get := func(k resource.Key) (*resource.Object, bool) {
		o, ok := m.secrets[k.Name]
		if ok {
			a.Secrets = append(a.Secrets, o)
		}
		return o, ok
	}
	certSource, keySource := resource.CASources(m.name, b)
	for _, s := range []resource.CASource{certSource, keySource} {
		if name := s.Secret.Name; name != "" && !slices.Contains(a.names, name) {
			a.names = append(a.names, name)
		}
	}
	cert, err := certSource.Read(get)
	if err != nil {
		return a.fail("certificate", err)
	}
	key, err := keySource.Read(get)
	if err != nil {
		return a.fail("key", err)
	}
	if _, err := ca.Parse(cert, key); err != nil {
		a.Problem = fmt.Sprintf("the CA of mTLS backend %q cannot be used: %v", a.Backend, err)
		return a
	}
	a.Cert, a.Key = cert, key
	return a
}

func (a *Authority) fail(part string, err error) *Authority {
	a.Problem = fmt.Sprintf("the %s of the CA of mTLS backend %q: %v", part, a.Backend, err)
	return a
}

// same says whether two authorities mean the same.
func (a *Authority) same(b *Authority) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Backend == b.Backend && a.Lifetime == b.Lifetime && a.Problem == b.Problem && slices.Equal(a.names, b.names) &&
		slices.Equal(a.Cert, b.Cert) && slices.Equal(a.Key, b.Key)
}

// vouch brings the mesh's authority in line with what was taken in, and says whether it is another now: all
// proxies of the mesh have to do with it.
func (m *mesh) vouch() bool {
	m.unvouched = false
	if m.current == nil {
		return false
	}
	a := m.authority(m.current)
	if a.same(m.current.Authority) {
		return false
	}
	m.current = &Mesh{Object: m.current.Object, Spec: m.current.Spec, Authority: a}
	return true
}

// rests says whether the mesh's authority lies in a secret.
func (m *mesh) rests(secret string) bool {
	return m.current != nil && m.current.Authority != nil && slices.Contains(m.current.Authority.names, secret)
}
