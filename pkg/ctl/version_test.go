package ctl

import (
	"testing"
	"time"
)

func TestRelease(t *testing.T) {
	for v, want := range map[string]string{
		"1.1.5": "1.1", "v0.12.3": "0.12", "v0.12.0-3-gabcdef-dirty": "0.12", "unknown": "", "abcdef0": "", "": "", "1.2": "",
	} {
		if got := release(v); got != want {
			t.Errorf("%q: %q, want %q", v, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 119 * time.Minute: "1h", 47 * time.Hour: "1d",
		364 * 24 * time.Hour: "364d", 800 * 24 * time.Hour: "2y",
	} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	if got := ago(now, time.Time{}); got != "never" {
		t.Error(got)
	}
}
