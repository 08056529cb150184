module calculator

go 1.26

require github.com/solo-run/solo v0.0.0
