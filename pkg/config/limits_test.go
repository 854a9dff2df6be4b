package config

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	file := write(t, "limits:\n  objectBytes: 64KiB\n  pageBytes: 1048576\n  answerBytes: 1GiB\n  zoneObjects: 500\n")
	g, warnings, err := LoadGlobal(Source{File: file, Environ: []string{"HOME=/h", "MERIDIAN_LIMITS_BODY_BYTES=2 MiB", "MERIDIAN_LIMITS_PAGE_ITEMS=200"}})
	if err != nil || warnings != nil {
		t.Fatal(err, warnings)
	}
	if l := g.Limits; l.ObjectBytes != 64<<10 || l.PageBytes != 1<<20 || l.AnswerBytes != 1<<30 || l.BodyBytes != 2<<20 || l.PageItems != 200 || l.ZoneObjects != 500 {
		t.Errorf("%+v", l)
	}
	shown, err := g.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Limits struct{ ObjectBytes, ZoneObjects int }
	}
	if err := json.Unmarshal(shown, &back); err != nil || back.Limits.ObjectBytes != 64<<10 || back.Limits.ZoneObjects != 500 {
		t.Errorf("%v: %s", err, shown)
	}
	// A key of the other control plane is documented, and means nothing here.
	if _, warnings, err = LoadGlobal(Source{Environ: []string{"HOME=/h", "MERIDIAN_LIMITS_ADS_STREAMS=7"}}); err != nil || len(warnings) != 1 {
		t.Error(err, warnings)
	}
	if _, warnings, err = LoadZone(Source{Environ: []string{"HOME=/h", "MERIDIAN_LIMITS_ZONE_OBJECTS=700"}}); err != nil || len(warnings) != 1 {
		t.Error(err, warnings)
	}
}

// TestLimitsAreHeld: every limit refuses what is too little and too much, by its key.
func TestLimitsAreHeld(t *testing.T) {
	g, z := DefaultGlobal(), DefaultZone()
	for name, keys := range map[string][]key{"global": keysOf(&g), "zone": keysOf(&z)} {
		n := 0
		for _, k := range keys {
			if !strings.HasPrefix(k.path, "limits.") {
				continue
			}
			n++
			for _, value := range []string{"0", "-1", "1.5", "many", "9223372036854775807", "9223372036854775807GiB"} {
				src := Source{Environ: []string{"HOME=/h", Variable(k.path) + "=" + value}}
				var err error
				if name == "global" {
					_, _, err = LoadGlobal(src)
				} else {
					_, _, err = LoadZone(src)
				}
				if err == nil || !strings.Contains(err.Error(), k.path) {
					t.Errorf("%s: %s of %s: %v", name, k.path, value, err)
				}
			}
		}
		if n < 10 {
			t.Errorf("%s has %d limits", name, n)
		}
	}
	for text, want := range map[string]string{
		"limits: {objectBytes: true}":                  "objectBytes: must be a whole number",
		"limits: {objectBytes: 512kb}":                 "objectBytes: must be a number of bytes",
		"limits: {waits: 1KiB}":                        "waits: must be a number",
		"limits: {answerBytes: 1MiB, pageBytes: 2MiB}": "limits.answerBytes: must not be less than limits.pageBytes",
		"limits: {headers: 1}":                         "unknown key",
	} {
		if _, _, err := LoadGlobal(Source{File: write(t, text), Environ: []string{"HOME=/h"}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
