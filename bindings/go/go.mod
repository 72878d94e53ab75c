module tz_show

go 1.19
