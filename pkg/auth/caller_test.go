package auth

import (
	"context"
	"crypto/x509"
	"net/netip"
	"testing"
)

func TestAdminPolicy(t *testing.T) {
	local := Caller{Remote: netip.MustParseAddrPort("127.0.0.1:40000"), Host: "localhost:5681"}
	with := func(change func(*Caller)) Caller {
		c := local
		change(&c)
		return c
	}
	remote := with(func(c *Caller) { c.Remote = netip.MustParseAddrPort("10.0.0.7:40000"); c.Host = "cp:5681" })
	tests := []struct {
		name         string
		caller       Caller
		admin, write bool // with AllowFromLocalhost
		remoteWrite  bool // with AllowRemoteWrites only
	}{
		{"local", local, true, true, true},
		{"local, IPv6", with(func(c *Caller) { c.Remote = netip.MustParseAddrPort("[::1]:1"); c.Host = "[::1]:5681" }), true, true, true},
		{"local, mapped", with(func(c *Caller) { c.Remote = netip.MustParseAddrPort("[::ffff:127.0.0.1]:1") }), true, true, true},
		{"local by address", with(func(c *Caller) { c.Host = "127.0.0.1" }), true, true, true},
		{"local in capitals", with(func(c *Caller) { c.Host = "LocalHost:1" }), true, true, true},
		{"local over TLS", with(func(c *Caller) { c.TLS = true }), true, true, false},
		{"same origin", with(func(c *Caller) { c.Origin = "http://localhost:5681" }), true, true, true},
		{"foreign origin", with(func(c *Caller) { c.Origin = "http://evil.example" }), false, false, true},
		{"foreign port of localhost", with(func(c *Caller) { c.Origin = "http://localhost:3000" }), false, false, true},
		{"origin of another scheme", with(func(c *Caller) { c.Origin = "https://localhost:5681" }), false, false, true},
		{"opaque origin", with(func(c *Caller) { c.Origin = "null" }), false, false, true},
		{"rebound name", with(func(c *Caller) { c.Host = "evil.example:5681" }), false, false, true},
		{"name that begins well", with(func(c *Caller) { c.Host = "localhost.evil.example" }), false, false, true},
		{"name in the port", with(func(c *Caller) { c.Host = "localhost:evil" }), false, false, true},
		{"no host", with(func(c *Caller) { c.Host = "" }), false, false, true},
		{"127.0.0.2", with(func(c *Caller) { c.Remote = netip.MustParseAddrPort("127.0.0.2:1") }), false, false, true},
		{"remote", remote, false, false, true},
		{"remote that says localhost", with(func(c *Caller) { c.Remote = remote.Remote }), false, false, true},
		{"unknown address", with(func(c *Caller) { c.Remote = netip.AddrPort{} }), false, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := AdminPolicy{AllowFromLocalhost: true}
			if got := p.Admin(tt.caller); got != tt.admin {
				t.Errorf("Admin = %v", got)
			}
			if got := p.MayWrite(tt.caller); got != tt.write {
				t.Errorf("MayWrite = %v", got)
			}
			strict := AdminPolicy{}
			if strict.Admin(tt.caller) || strict.MayWrite(tt.caller) {
				t.Error("allowed where nothing is")
			}
			if got := (AdminPolicy{AllowRemoteWrites: true}).MayWrite(tt.caller); got != tt.remoteWrite {
				t.Errorf("MayWrite with remote writes = %v", got)
			}
			certified := tt.caller
			certified.TLS, certified.Certificate = true, &x509.Certificate{}
			if !strict.Admin(certified) || !strict.MayWrite(certified) {
				t.Error("a client certificate is not enough")
			}
		})
	}
}

func TestCallerContext(t *testing.T) {
	if _, ok := CallerFrom(context.Background()); ok {
		t.Error("a caller out of nothing")
	}
	want := Caller{Host: "x"}
	if got, ok := CallerFrom(WithCaller(context.Background(), want)); !ok || got.Host != want.Host {
		t.Errorf("got %v, %v", got, ok)
	}
}
