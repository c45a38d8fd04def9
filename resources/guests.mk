# Guests and the machine to run them in. Each target prints the files it makes; a second run only finds them in the cache.

guests := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))

.PHONY: kernel rootfs debian fio machine

kernel: ## build the reference guest kernel (once, a few minutes)
	@$(guests)/kernel/build.sh

rootfs: ## build the guest's root disk and initramfs
	@$(guests)/rootfs/build.sh

debian: ## fetch Debian's stock kernel and make its initrd
	@$(guests)/debian/fetch.sh

fio: ## make the disk with fio, for guests
	@$(guests)/fio/build.sh

machine: ## prepare the AMD-V machine, for hosts whose KVM cannot run Linux
	@$(guests)/machine/run.sh --prepare
